"""Tem-Adapter: temporal and semantic aligners."""
