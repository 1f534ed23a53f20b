"""Tests of ``mmllm.model``."""
