"""The Interactive Visual Adapter."""
