"""Builds the miniature frozen parts (LM, two image encoders) and the small world they are trained and tested on."""
