"""Tests of ``mmllm.batches``."""
