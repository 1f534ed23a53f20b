"""Segment Anything's image encoder, alone and as published models use it."""
