"""Tests of ``mmllm.evaluation.benchmarks``."""
