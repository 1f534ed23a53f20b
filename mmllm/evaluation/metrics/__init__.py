"""Metrics: pure functions of a prediction and its references, each with a value in 0..1."""
