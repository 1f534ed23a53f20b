"""Audio encoders of transformers."""
