"""Tests of ``mmllm.encoders.audio``."""
