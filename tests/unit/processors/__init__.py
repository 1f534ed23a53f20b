"""Tests of ``mmllm.processors``."""
