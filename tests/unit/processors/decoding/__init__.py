"""Tests of ``mmllm.processors.decoding``."""
