"""The ``temporal_aligner`` connector: frames read each other, and learn by foretelling the next one (Tem-Adapter)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import mlp
from mmllm.connectors.layers.temporal import Block, earlier, frames_in, frames_of, in_time
from mmllm.connectors.projectors.temporal_aligner.released import PostNormBlock, SentenceAligner
from mmllm.connectors.projectors.temporal_aligner.semantic_aligner import SemanticAligner, TextVector, words_of
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext
from mmllm.types import Features, Grid


class TemporalAlignerConnector(Projector):
    """Frames that foretell the next, after Tem-Adapter's aligners (Chen et al. 2023, arXiv 2308.08414), before an LLM.

    v_t is the mean of frame t's patches, brought to mean 0 and variance 1. One token per frame::

        E = LN Enc(W v + positions)      bidirectional;      tokens = MLP(E)

    While it learns, the frames to come are foretold from the past and from the words about the clip, and ``weight``
    times the error is added to the loss; answers enter there and never the tokens::

        past = LN Enc(W v + positions) with the same weights, frame t reading frames up to t only
        foretold_t = Dec(W v + positions; past + a')      frame t reading itself and what is before it
        error = mean of (foretold_t - v_{t+1})²

    a' are the words of question and answer, refined by the clip, see ``SemanticAligner``. Blocks have their norms in
    front, GELU and no biases.

    ``form: released`` has the layers of the authors' code instead: blocks with norms behind and biases, ReLU and
    ``mlp_width`` channels inside (``PostNormBlock``), v_t as the encoder gives it, W and the map to what is foretold
    only where the encoder's width is another than ``width``, no LN behind Enc, and one vector for all words
    (``SentenceAligner``); ``foretell: same`` beside it is their loss.

    Always another than in the released code, where they are errors: with ``next`` the target is shifted and the memory
    holds the past only (there each frame is reconstructed from a memory that holds it); each text reads its own clip.
    There is no hinge over candidates, the LLM's own loss takes its place; words come from the LLM's embeddings, where
    the authors have CLIP's sentence vector. Dropout is left out.
    """

    accepts_padding = True
    reads_text = True
    reads_user_turn = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        width: int = 512,
        depth: int = 1,
        heads: int = 16,
        foretell: Literal["next", "same", "nothing"] = "next",
        weight: float = 1.0,
        semantic: bool = True,
        semantic_width: int = 128,
        mlp_depth: int = 2,
        form: Literal["own", "released"] = "own",
        mlp_width: int = 2048,
    ) -> None:
        """Set up.

        Args:
            dim: width of the features.
            llm_dim: width of the LLM's embeddings.
            width: W of encoder and decoder.
            depth: blocks of the encoder, and of the decoder.
            heads: of both, and of the semantic aligner.
            foretell: ``next``: see above. ``same``: as released, each frame from a memory of all frames.
                ``nothing``: no extra loss, no decoder.
            weight: of the error in the loss, beside the LLM's mean loss per token.
            semantic: whether the clip refines the words; else a' are the words alone.
            semantic_width: channels of that decoder.
            mlp_depth: linear layers from E to the LLM.
            form: of the layers, see above.
            mlp_width: channels between the linear layers of a block of ``form: released``.
        """
        super().__init__(dim=dim, llm_dim=llm_dim)
        if foretell not in ("next", "same", "nothing"):
            raise MmllmError(
                f"connector temporal_aligner foretell: {foretell!r} is unknown; known: next, same, nothing."
            )
        if form not in ("own", "released"):
            raise MmllmError(f"connector temporal_aligner form: {form!r} is unknown; known: own, released.")
        if mlp_width < 1:
            raise MmllmError(f"connector temporal_aligner mlp_width: {mlp_width} must be at least 1.")
        if weight <= 0 or depth < 1:
            raise MmllmError(
                f"connector temporal_aligner: weight {weight} must be above 0 (foretell: nothing leaves it out) and "
                f"depth {depth} at least 1."
            )
        self.foretell, self.weight, self.width = foretell, weight, width
        self.released = form == "released"
        fits = self.released and dim == width
        self.input = nn.Identity() if fits else nn.Linear(dim, width)

        def blocks(reads: bool = False) -> nn.ModuleList:
            if self.released:
                return nn.ModuleList(PostNormBlock(width, heads, mlp_width, reads) for _ in range(depth))
            return nn.ModuleList(Block(width, heads, reads) for _ in range(depth))

        self.encoder = blocks()
        self.norm = nn.Identity() if self.released else nn.LayerNorm(width)
        self.mlp = mlp(width, llm_dim, mlp_depth)
        learns = foretell != "nothing"
        self.text = TextVector(llm_dim, width) if learns else None
        refined = SentenceAligner if self.released else SemanticAligner
        self.semantic = refined(width, semantic_width, heads) if learns and semantic else None
        self.decoder = blocks(reads=True) if learns else nn.ModuleList()
        self.foretold: nn.Module | None = None
        if learns and self.released:
            self.foretold = nn.Identity() if fits else nn.Linear(width, dim)
        elif learns:
            self.foretold = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """Grid (frames, 1, 1): one token for each frame; a picture is one."""
        return (frames_in(grid, "temporal_aligner"), 1, 1)

    def forward(self, features: Features, ctx: ForwardContext | None = None) -> Tensor:
        """Align features float[N, T, dim]: float[N, F, llm_dim]; ``ctx`` is for the extra loss alone."""
        patches, real = frames_of(features, "temporal_aligner")
        counts = real.sum(dim=-1, keepdim=True)
        means = (patches * real[..., None]).sum(dim=-2) / counts.clamp(min=1)
        v = means if self.released else functional.layer_norm(means, means.shape[-1:])
        shown = counts.squeeze(-1) > 0
        frames = self.input(v)
        x = frames + in_time(frames.shape[1], self.width, frames)
        if self.training and ctx is not None and ctx.text_embeds is not None and self._learns():
            # detached: the target must not move towards the guess, also where an adapter learns inside the encoder
            ctx.notes[self.key, "error"] = self._foretelling_error(ctx, x, frames, v.detach(), shown)
        return self.mlp(self._encoded(x, shown[:, None]))

    def extra_loss(self, ctx: ForwardContext) -> Tensor | None:
        """``weight`` times the mean error of the clips of this pass; None while nothing of it learns."""
        error: Tensor | None = ctx.notes.get((self.key, "error"))
        return None if error is None else self.weight * error

    def _learns(self) -> bool:
        """Whether there is an extra loss now."""
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        return learns and self.foretell != "nothing"

    def _encoded(self, x: Tensor, seen: Tensor) -> Tensor:
        """Encode frames that see those in ``seen``: E float[N, F, W]."""
        for block in self.encoder:
            x = block(x, seen)
        return self.norm(x)

    def _foretelling_error(self, ctx: ForwardContext, x: Tensor, frames: Tensor, v: Tensor, shown: Tensor) -> Tensor:
        """Mean over frames that have a next one, in conversations with words; 0 with all weights in it if none has."""
        words = words_of(ctx, self.key, len(v), x.dtype)
        guess = self.foretell_frames(x, shown, words.states, words.real, frames if self.released else x)
        shift = int(self.foretell == "next")
        counted = shown[:, shift:] & words.real.any(dim=1, keepdim=True)
        errors = (guess[:, : guess.shape[1] - shift] - v[:, shift:]).square().mean(dim=-1)
        # the 0 keeps every weight in the graph also without words, so that no rank's backward pass differs
        return (errors * counted).sum() / counted.sum().clamp(min=1) + guess.sum() * 0.0

    def foretell_frames(
        self, x: Tensor, shown: Tensor, states: Tensor, real: Tensor, read: Tensor | None = None
    ) -> Tensor:
        """Predict from each frame, float[N, F, dim].

        Args:
            x: float[N, F, W], the frames with their positions.
            shown: bool[N, F], which frames there are.
            states: float[N, L, llm_dim], words.
            real: bool[N, L], which words there are.
            read: float[N, F, W], frames that refine the words; default: ``x``.
        """
        assert self.text is not None and self.foretold is not None
        past_only = self.foretell == "next"
        a, words = self.text(states, real)
        steered = a[:, None]
        order = earlier(x.shape[1], x)[None]
        seen = order if past_only else shown[:, None]
        if self.semantic is not None:
            steered = self.semantic(a, words, real, x if read is None else read, seen)
        memory = self._encoded(x, seen) + steered
        y = x
        for block in self.decoder:
            y = block(y, order, memory, seen)
        return self.foretold(y)
