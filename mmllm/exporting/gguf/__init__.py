"""A run as GGUF files of llama.cpp: its LLM, and its tower and projector as ``mmproj.gguf``."""
