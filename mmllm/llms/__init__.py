"""Language models: one wrapper for any Hugging Face causal LM, and attention that keeps packed conversations apart."""
