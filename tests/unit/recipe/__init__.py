"""Tests of ``mmllm.recipe``."""
