"""Measured speed: each module measures one thing side by side and writes its table into RESULTS.md."""
