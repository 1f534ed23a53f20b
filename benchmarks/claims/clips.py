"""Encoders of the claims about clips: patches named by numbers become vectors of a fixed table; and a control of IVA.

They stand in for a frozen encoder that sees every patch rightly: what is asked is what a connector makes of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmllm.connectors.deep_fusion.iva.iva import IvaConnector
from mmllm.connectors.deep_fusion.iva.turns import Turns
from mmllm.encoders.base import Encoder
from mmllm.miniature.world.words import CITIES, DAYS, ITEMS, NAMES, SOUNDS, TOPICS
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.types import Features

KEYS = (*NAMES, *CITIES, *DAYS, *SOUNDS, *TOPICS)
VALUES = ITEMS
NOTHING = -1
"""In a file: there is nothing."""


class CodeProcessor(Processor):
    """Reads .npy files int16[frames, patches, parts]."""

    modality = "video"

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def read(self, media: str | Path) -> Item:
        """The numbers of a file."""
        return {"codes": torch.from_numpy(np.load(media).astype(np.int64))}

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(frames, 1, patches)."""
        frames, patches, _ = info["codes"].shape
        return frames, 1, patches

    def blank(self) -> Item:
        """One frame that shows nothing."""
        return {"codes": torch.full((1, 1, self.parts), NOTHING)}


class CodedClips(Encoder):
    """Media are .npy files int16[frames, patches, parts]; a patch is the table's rows of its parts side by side."""

    def __init__(self, *, table: Tensor, parts: int, layers: Sequence[int] = (-1,)) -> None:
        """``table`` float[codes + 1, width]; the last row, of NOTHING, is zeros."""
        super().__init__(layers=layers)
        self.processor = CodeProcessor(parts)
        self.dim = parts * table.shape[1]
        self.register_buffer("table", table)
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """int64[N, F, P, parts] -> float[N, F * P, D]; clips of one batch are equally long."""
        codes = inputs["codes"]
        x = self.table[codes].flatten(3)  # type: ignore[index]
        mask = torch.ones(len(codes), x.shape[1] * x.shape[2], dtype=torch.bool, device=x.device)
        return Features({self.layers[0]: x.flatten(1, 2)}, mask, (x.shape[1], 1, x.shape[2]))


class WordClips(CodedClips):
    """Each patch shows nothing or a key and a value, as the LM's own embeddings of these words: an aligned encoder."""

    def __init__(self, *, lm: str, layers: Sequence[int] = (-1,)) -> None:
        """``lm``: folder of the LM."""
        from safetensors.torch import load_file
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(lm)
        embeddings = load_file(Path(lm) / "model.safetensors")["model.embed_tokens.weight"].float()
        rows = embeddings[tokenizer.convert_tokens_to_ids([*KEYS, *VALUES])]
        rows = rows / rows.std()
        super().__init__(table=torch.cat([rows, torch.zeros_like(rows[:1])]), parts=2, layers=layers)


class RandomClips(CodedClips):
    """Each patch shows two of ``codes`` things, each a random vector of ``width``: an encoder that knows no words."""

    def __init__(self, *, codes: int, width: int = 32, layers: Sequence[int] = (-1,)) -> None:
        rows = torch.randn(codes, width, generator=torch.Generator().manual_seed(0))
        super().__init__(table=torch.cat([rows, torch.zeros_like(rows[:1])]), parts=2, layers=layers)


class StrangersIva(IvaConnector):
    """Control: every message's frames are chosen by the question of another message of the batch."""

    def asked(self, turns: Turns, states: Tensor, patches: Tensor) -> Tensor:
        """The questions, moved on by half of them."""
        u = super().asked(turns, states, patches)
        return u.roll(len(u) // 2, dims=0)


def write_lm(folder: Path) -> None:
    """A language model of two blocks and 64 channels with random weights and the miniature LM's words.

    For tasks that ask for one word: it is trained together with the connector, in seconds. The clips of ``WordClips``
    show its embeddings as they start, so that it sees and reads the same vectors, as a pretrained pair would.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained("data/mini/lm")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=0.1, use_cache=True, **sizes, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
