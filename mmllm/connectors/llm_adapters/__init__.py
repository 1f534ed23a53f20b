"""LLM adapters: what learns inside the frozen LLM."""
