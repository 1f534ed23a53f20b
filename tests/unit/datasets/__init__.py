"""Tests of ``mmllm.datasets``."""
