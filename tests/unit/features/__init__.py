"""Kept features of frozen encoders: digests of items, shards, the store, and what the model gets of them."""
