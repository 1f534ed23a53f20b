"""Published vision- and audio-language models as parts: where text model, tower and projector lie in their folders."""
