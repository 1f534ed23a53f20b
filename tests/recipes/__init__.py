"""The shipped recipes with stand-ins of the same architectures."""
