"""Layers that several connectors are made of."""
