"""Certificates of what text without media goes through."""
