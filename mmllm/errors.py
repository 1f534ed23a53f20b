"""The one error tree: everything the user can fix is an MmllmError with one sentence, in which values are short."""


class MmllmError(Exception):
    """Anything the user can fix: one sentence that says what, where, what is known and what to do. Exit code 2."""


class RecipeError(MmllmError):
    """A recipe that cannot be run: names file, line, path in the YAML, what was found and what is known."""


class SampleError(MmllmError):
    """One sample that cannot be used (missing file, broken image, no label, too long); counted against ``max_bad``."""


class TooLongError(SampleError):
    """A sample with more tokens than the context, or none left for an answer; the server's clients are told by code."""


class UnreadableError(SampleError):
    """A sample with a media item that cannot be read; ``key`` is its encoder's, for the server's clients."""

    key: str = ""
    """Set after it is made: an error keeps one argument, so that it travels between processes."""


class CheckpointError(MmllmError):
    """A run folder or checkpoint that is missing, damaged or made for other frozen parts."""


class MediaError(MmllmError):
    """A media item that cannot be read or is over a limit."""


class ConstraintError(MmllmError):
    """A constraint of an answer that cannot be followed: its schema is malformed, not supported or too complex."""


def shortened(value: object, limit: int = 80) -> str:
    """Return a value as an error shows it: a payload in base64 or a long list would hide the sentence around it."""
    text = repr(value[: limit + 1] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
