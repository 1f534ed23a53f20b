"""Cross-attention blocks among an LLM's own, as Llama 3.2 Vision has them."""
