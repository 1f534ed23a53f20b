"""Tests of ``mmllm.encoders``."""
