"""A run in the folder that vLLM serves: LLM, what is in front of it, and the configuration of both."""
