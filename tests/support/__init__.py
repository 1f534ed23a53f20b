"""Tiny parts, builders and processes that tests share."""
