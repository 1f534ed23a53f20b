"""The server, the terminal chat and what requests may hold."""
