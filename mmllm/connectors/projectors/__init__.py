"""Projectors: encoder features become tokens of the LLM."""
