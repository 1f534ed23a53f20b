"""Decoding of video and sound in a process that can be killed; nothing here imports torch."""
