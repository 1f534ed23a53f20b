"""Drawings of media as people see them: plots, pictures in a terminal, waveforms in characters, data URLs."""
