"""Error of the decoding worker where a file cannot be used; apart, because nothing of the worker imports torch."""


class BadMedia(Exception):
    """Error for a file that cannot be used; the message ends a sentence that begins with its name."""
