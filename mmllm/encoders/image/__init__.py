"""Image encoders: ViTs of open_clip and transformers."""
