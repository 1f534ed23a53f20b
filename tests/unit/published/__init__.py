"""Tests of importing published models."""
