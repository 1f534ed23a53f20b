"""The multimodal model: encoders, connectors and the LLM put together from a recipe; which parts of it learn."""
