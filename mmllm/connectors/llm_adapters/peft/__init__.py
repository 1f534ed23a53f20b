"""Adapters of the peft library, on the same hook points as the others."""
