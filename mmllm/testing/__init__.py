"""Tiny parts and what every part must keep, for tests of this package and of plugins; nothing in mmllm imports it."""
