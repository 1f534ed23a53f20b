"""Where connectors take hold inside an encoder (``Encoder.inside()``): its blocks, their attention and MLP."""

from __future__ import annotations

from mmllm.hooks import Change, ChangeOutput, Handle


class Inside:
    """The blocks of one frozen transformer encoder as connectors see them: float[rows, prefix + T, D], batch first.

    ``Encoder.now`` says what the rows are. Everything works on this instance and is undone by its handle.
    """

    n_blocks: int
    dim: int
    """D of the residual stream."""

    def before_block(self, index: int, change: Change) -> Handle:
        """Replace the input of block ``index`` by ``change(it)``."""
        raise NotImplementedError

    def after_block(self, index: int, change: ChangeOutput) -> Handle:
        """Replace the output of block ``index`` by ``change(its input, its output)``."""
        raise NotImplementedError
