"""Answers of a model: cached decoding, sampling, text as it comes."""
