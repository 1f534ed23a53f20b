"""Runs inside other software that calls them: each folder is what one of them loads."""
