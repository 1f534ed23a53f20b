"""The chat server: an HTTP API in OpenAI's shapes, the terminal chat and the drawing of pictures in a terminal."""
