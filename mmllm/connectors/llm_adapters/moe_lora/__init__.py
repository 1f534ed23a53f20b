"""Mixtures of LoRA experts."""
