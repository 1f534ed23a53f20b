"""Tasks that a model names in its answers (UnifiedMLLM, 2408.02503): their tags are read, and tools run."""
