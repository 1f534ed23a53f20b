"""Writes recipes/published: what ``mmllm import`` makes of one checkpoint of each family, with a stage that trains it.

    python -m docs.write.published_recipes

The sections come from the same code that imports, given the configuration of ``full_sizes.py`` in place of a folder.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from docs.write.full_sizes import FULL_SIZES, FullSize
from mmllm.published.architectures import TABLE
from mmllm.published.importing import CONTEXT, TEMPLATE
from mmllm.published.source import Sections, Source
from mmllm.testing.tiny.published import PUBLISHED
from mmllm.testing.tiny.published.folder import processor_of, tokenizer_of
from mmllm.vlms.families import FAMILIES

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "published"
DATA = {
    "image": ("llava_instruct", "textvqa"),
    "one question": ("llava_pretrain", "textvqa"),
    "audio": ("audio_instruct", "clotho_aqa"),
}
"""What is shown -> data and benchmark."""


class Known(Source):
    """A checkpoint by what is publicly known of it: no folder, and nothing of the hub."""

    def __init__(self, full: FullSize, path: str | None = None) -> None:
        """``path``: what the recipe calls it; None: its name on the hub."""
        made = PUBLISHED[full.kind]
        tokenizer = tokenizer_of(made)
        self.path, self.tiles, self.asked = path or full.hub, True, None
        self.config = full.config(tokenizer.convert_tokens_to_ids(made.mark))
        if hasattr(self.config, "video_token_id"):  # behind the picture's, as the tiny tokenizers have it
            self.config.video_token_id = tokenizer.convert_tokens_to_ids(made.mark) + 1
        self.family = FAMILIES[self.config.model_type]
        self.processor = processor_of(made, tokenizer, self.config)
        self.tokenizer = self.processor.tokenizer
        if full.kind == "Ovis2":
            self.processor.image_seq_length = 256  # its class's own
        if full.kind == "Llama4":
            self.processor.patch_size = 14  # as its tower's
        if full.kind == "AudioFlamingo3":
            self.processor.max_audio_len = 600  # its class's own
        if getattr(self.processor, "video_processor", None) is not None:
            # its class's own settings: the tiny model's have its own patches
            self.processor.video_processor = type(self.processor.video_processor)()
        if full.reader is not None:
            audio = "feature_extractor" if hasattr(self.processor, "feature_extractor") else "audio_processor"
            part = "image_processor" if self.family.modality == "image" else audio
            setattr(self.processor, part, full.reader())

    def sections(self) -> Sections:
        """As of a folder."""
        found: Sections = importlib.import_module(
            f"mmllm.published.architectures.{TABLE[self.config.model_type]}"
        ).sections(self)
        return found


def words(name: str, full: FullSize) -> dict[str, Any]:
    """The recipe's sections."""
    source = Known(full)
    sections, key = source.sections(), source.family.modality
    context = min(CONTEXT, source.config.get_text_config().max_position_embeddings)
    llm = {"path": full.hub, "dtype": "bfloat16", "context": context, **sections.llm}
    if sections.template is not None or sections.rewrites is not None:
        llm["template"] = f"runs/{name}/{TEMPLATE}"
    for word in full.unknown:
        del sections.connectors[key][word]
    data, benchmark = DATA["one question" if full.one_question else key]
    folder = f"data/{data}"
    stage = {
        "train": {f"connectors.{key}": 2.0e-5}, "data": {"instruct": 1.0}, "epochs": 1, "batch": 128, "micro_batch": 4,
        "warmup": 0.03, "zero": 2, "gradient_checkpointing": True, "save_every": 500,
    }  # fmt: skip
    return {
        "name": name,
        "seed": 0,
        "start": f"runs/{name}",
        "llm": llm,
        "encoders": sections.encoders,
        "connectors": sections.connectors,
        "data": {"instruct": {"type": "chat_jsonl", "path": f"{folder}/chat.jsonl", "media": folder}},
        "stages": {"instruct": stage},
        "eval": {"benchmarks": [benchmark], "max_new_tokens": 32},
    }


def text(name: str, full: FullSize) -> str:
    """The recipe's file."""
    here = f"recipes/published/{name}.yaml"
    head = [
        f"{full.title} as it is imported: change a line, and train on from the published weights.",
        f"Run it:          mmllm train {here}            (several nodes: --gpus 8 --nodes hostfile)",
        f"Import it first: mmllm import {full.hub} --out runs/{name}",
        "Its sizes were not read from the checkpoint: where the import's own recipe.yaml differs, that one is right.",
        *(f"Take connectors.*.{word} from that file: nothing but the checkpoint says it." for word in full.unknown),
        *(f"Take connectors.{key} from that file: its sizes are those of weights of its own." for key in full.more),
    ]
    body = yaml.dump(words(name, full), Dumper=_Compact, sort_keys=False, width=116, allow_unicode=True)
    return "".join(f"# {line}\n" for line in head) + body


class _Compact(yaml.SafeDumper):
    """Values of a section on one line each, as recipes are written by hand."""

    def ignore_aliases(self, data: Any) -> bool:
        """What two parts have in common is written in both."""
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = not any(isinstance(one, dict) for one in dict(mapping).values())
        return node

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Line breaks as they are typed."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


_Compact.add_representer(str, _Compact.represent_str)


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, full in FULL_SIZES.items():
        (FOLDER / f"{name}.yaml").write_text(text(name, full), encoding="utf-8")


if __name__ == "__main__":
    main()
