"""Tests of ``mmllm.miniature``."""
