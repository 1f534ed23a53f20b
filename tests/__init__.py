"""Tests: a folder for each kind; what they share is in ``tests.support``."""
