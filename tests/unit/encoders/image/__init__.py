"""Tests of ``mmllm.encoders.image``."""
