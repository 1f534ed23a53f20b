"""Tests of ``mmllm.training``."""
