"""Processors: from media to the tensors an encoder takes; CPU work that needs no weights."""
