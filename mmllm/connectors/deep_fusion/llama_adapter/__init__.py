"""LLaMA-Adapter V1 and V2."""
