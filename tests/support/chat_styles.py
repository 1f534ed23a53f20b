"""Chat templates of eleven families as short restatements, each with a tokenizer of its kind"""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mmllm.messages.tokenize import Prompt
from mmllm.types import IGNORE_INDEX, Message, Sample
from tests.support.places import TEMPLATES

CORPUS = ["First things first. Second thoughts, please answer? [INST] [/INST] user assistant system\n\nOne Two"] * 3
CHATML = ["<|im_start|>", "<|im_end|>"]
STYLES: dict[str, tuple[str, list[str], str | None, str]] = {
    "chatml": ("bytes", CHATML, None, "<|im_end|>"),
    "llama3": (
        "bytes",
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "mistral": ("metaspace", ["<s>", "</s>"], "<s>", "</s>"),
    "llama2": ("prepend", ["<s>", "</s>"], "<s>", "</s>"),
    "phi3": ("prepend", ["<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], "<s>", ""),
    "gemma": ("bytes", ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
    "zephyr": ("metaspace", ["<s>", "</s>"], "<s>", "</s>"),
    "smollm3": ("bytes", CHATML, None, "<|im_end|>"),
    "olmo2": ("bytes", ["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
    "qwen3": ("bytes", [*CHATML, "<think>", "</think>"], None, "<|im_end|>"),
    "content_marks": ("bytes", CHATML, None, "<|im_end|>"),
    "no_end": ("bytes", ["<eos>"], None, "<eos>"),
    "forced_thought": ("bytes", CHATML, None, "<|im_end|>"),
}
"""Template -> (kind of tokenizer, special tokens, bos, eos); phi3's eos is not its end-of-turn."""

SPANS = {
    "chatml": ["First.<|im_end|>", "Second.<|im_end|>"],
    "llama3": ["First.<|eot_id|>", "Second.<|eot_id|>"],
    "mistral": [" First.</s>", " Second.</s>"],
    "llama2": [" First. </s>", " Second. </s>"],
    "phi3": ["First.<|end|>", "Second.<|end|>"],
    "gemma": ["First.<end_of_turn>", "Second.<end_of_turn>"],
    "zephyr": ["\nFirst.</s>", "\nSecond.</s>"],  # its generation prompt leaves the line break to the model
    "smollm3": [f"<|im_start|>assistant\n{text}<|im_end|>\n" for text in ("First.", "Second.")],  # as it marks them
    "olmo2": ["First.<|endoftext|>", "Second.<|endoftext|>"],
    "qwen3": [
        "First.<|im_end|>",
        "Second.<|im_end|>",
    ],  # only the last turn shows its empty thought, which the prompt holds
    "content_marks": ["First.<|im_end|>", "Second.<|im_end|>"],  # the marks leave the end of turn out
}
TURNS = (
    Message("user", "One?"),
    Message("assistant", "First."),
    Message("user", "Two, please?"),
    Message("assistant", "Second."),
)


@cache
def _backend(kind: str, special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind != "bytes", unk_token=None if kind == "bytes" else "<unk>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else [chr(i) for i in range(32, 127)] + ["\n"]
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        if kind == "metaspace":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    names = [*([] if kind == "bytes" else ["<unk>"]), *special]
    if kind == "prepend":  # as sentencepiece learns: no piece goes on behind a blank
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=360, special_tokens=names, initial_alphabet=alphabet, show_progress=False),
    )
    if kind == "prepend":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer.to_str()


def style_tokenizer(style: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a style, with its special tokens and template."""
    kind, special, bos, eos = STYLES[style]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(kind, tuple(special))),
        bos_token=bos,
        eos_token=eos or "<|endoftext|>",
    )
    swallows = style == "phi3"  # its turn tokens take the blanks behind them along
    tokens = [AddedToken(text, special=True, normalized=False, rstrip=swallows and text != "<s>") for text in special]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = (TEMPLATES / f"{style}.jinja").read_text().removesuffix("\n")
    return tokenizer


def sample_of(*messages: Message, **media: tuple[object, ...]) -> Sample:
    """A sample of these messages, named data:7."""
    return Sample("data:7", messages, media)


def label_spans(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[str]:
    """Each run of labels as text."""
    runs: list[list[int]] = [[]]
    for label in prompt.labels:
        if label != IGNORE_INDEX:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [ids_text(tokenizer, run) for run in runs if run]


def ids_text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """What ids stand for, special tokens included."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    if not isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
        return "".join(pieces).replace("▁", " ").replace("<0x0A>", "\n")
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
