"""mmllm: write a recipe, get a multimodal LLM. Frozen encoders + connectors + a frozen LLM, from one YAML file."""

__version__ = "0.1.0"
