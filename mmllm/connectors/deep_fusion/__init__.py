"""Deep fusion: layers inside the LLM that read encoder features."""
