"""Tests of ``mmllm.sets``."""
