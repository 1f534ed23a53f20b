"""Tests of ``mmllm.evaluation.metrics``."""
