"""Tests of ``mmllm.encoders.points``."""
