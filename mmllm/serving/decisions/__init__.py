"""Decisions: how a question is put, and the probabilities of its answers."""
