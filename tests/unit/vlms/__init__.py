"""Tests of published VLMs as parts."""
