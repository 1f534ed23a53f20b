"""Tests of ``mmllm.checkpoints``."""
