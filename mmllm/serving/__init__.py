"""The server of a run: an OpenAI-compatible API, previews, and the chat in the terminal."""
