"""Random parts of real shapes in standard folders, for benchmarks of memory and speed; nothing in them was learned.

The folders are read by the code that reads published models; the tokenizer is the miniature LM's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, Qwen2Config

TOKENIZER = Path("data/mini/lm")
WORDS = "a red square stands left of the blue circle and above one green triangle".split()

LLMS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 32_000},
    "8x512": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 4, "vocab_size": 32_000},
    "8x512, 152k": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
                    "num_key_value_heads": 4, "vocab_size": 151_936},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "7B": {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152_064},
}  # fmt: skip
"""Name -> Qwen2's configuration: the last two are the shapes of Qwen2.5-0.5B and -7B."""
VITS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 28, "patch_size": 7},
    "6x384": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6,
              "image_size": 224, "patch_size": 14},
    "ViT-L": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "image_size": 336, "patch_size": 14},
}  # fmt: skip
"""Name -> CLIP's configuration of its picture tower."""


def llm_folder(
    folder: Path, name: str, dtype: torch.dtype = torch.float32, tokenizer: Path = TOKENIZER, **save: Any
) -> Path:
    """A random Qwen2 of a shape of :data:`LLMS`; kept where it is there already. ``save``: of ``save_pretrained``.

    It never ends an answer of itself: those of random weights run to their limit.
    """
    if not (folder / "tokenizer_config.json").is_file():
        torch.manual_seed(0)
        config = Qwen2Config(**LLMS[name], max_position_embeddings=4096)
        # on a GPU seconds instead of minutes; set_default_device, put back, would go on costing in every operation
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder, **save)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def vit_folder(folder: Path, name: str) -> Path:
    """A random CLIP tower of a shape of :data:`VITS`, with its image processor; kept where it is there already."""
    if not (folder / "preprocessor_config.json").is_file():
        torch.manual_seed(1)
        CLIPVisionModel(CLIPVisionConfig(**VITS[name])).save_pretrained(folder)
        side = VITS[name]["image_size"]
        square = {"height": side, "width": side}
        transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square).save_pretrained(folder)
    return folder


def conversations(folder: Path, words: list[int], shared: bool = False) -> Path:
    """``chat.jsonl``: one picture and one answer of so many words each; ``shared``: the same picture for all."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, n_words in enumerate(words):
        picture = f"{0 if shared else number}.png"
        Image.new("RGB", (64, 64), (number * 7 % 256, 90, 255 - number * 3 % 256)).save(folder / picture)
        said = " ".join(WORDS[place % len(WORDS)] for place in range(n_words))
        turns = [
            {"role": "user", "content": f"<image>\nWhat is in picture {number}?"},
            {"role": "assistant", "content": said},
        ]
        lines.append(json.dumps({"messages": turns, "image": [picture]}))
    path = folder / "chat.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
