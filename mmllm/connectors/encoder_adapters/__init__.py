"""Encoder adapters: what learns inside a frozen encoder."""
