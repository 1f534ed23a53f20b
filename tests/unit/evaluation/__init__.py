"""Tests of ``mmllm.evaluation``."""
