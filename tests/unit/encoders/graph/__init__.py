"""Tests of ``mmllm.encoders.graph``."""
