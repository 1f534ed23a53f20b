"""Tests of ``mmllm.inspection``."""
