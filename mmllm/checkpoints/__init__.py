"""Checkpoints: what was learned and what it belongs to, written so that it is whole or not there."""
