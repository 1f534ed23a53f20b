"""Tests of ``mmllm.llms``."""
