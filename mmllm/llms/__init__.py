"""Language models: one wrapper for any Hugging Face causal LM, and the attention that keeps packed conversations apart."""
