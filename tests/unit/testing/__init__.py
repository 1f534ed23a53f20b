"""Tests of what holds parts to their contract."""
