"""Tests of ``mmllm.registry``."""
