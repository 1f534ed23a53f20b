"""Calls of functions: how the model is told of them, and how what it says is read back."""
