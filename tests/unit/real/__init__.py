"""Tests of ``mmllm.real``."""
