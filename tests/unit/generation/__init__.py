"""Tests of ``mmllm.generation``."""
