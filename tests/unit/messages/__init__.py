"""Tests of ``mmllm.messages``."""
