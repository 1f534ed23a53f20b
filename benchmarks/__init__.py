"""Measured tables, each written by a command in this folder that anyone can rerun."""
