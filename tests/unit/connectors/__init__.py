"""Tests of ``mmllm.connectors``."""
