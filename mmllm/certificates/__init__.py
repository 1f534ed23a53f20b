"""Certificates: which parts of a run change conversations without media, beside the bare language model."""
