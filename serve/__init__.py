"""Files deployed from a checkout: the ASGI entry, the chat page's client, and examples (README.md)."""
