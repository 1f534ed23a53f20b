"""Tests of ``mmllm.encoders.video``."""
