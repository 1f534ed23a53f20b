"""Outlines of encoders: what they read and how wide their states are, from their configurations alone."""
