"""Fuyu, whose tokens of pictures are pieces of its vocabulary like others, in front of which it puts a blank."""

from __future__ import annotations

import string
from typing import Any

import transformers as t
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from mmllm.testing.tiny.published.folder import LLM, Case, Published

_WORDS = ("|SPEAKER|", "|NEWLINE|", "<0x04>", "▁What", "▁is", "▁on", "▁it")


def _tokenizer() -> Any:
    """SentencePiece's unigrams as converted tokenizers have them."""
    letters = ["▁", "\n", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((word, -1.0) for word in _WORDS)]
    made = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in letters)], unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return t.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


def _fuyu(token: int, changes: dict[str, Any]) -> Any:
    words = {word: value for word, value in LLM.items() if word != "num_key_value_heads"}
    text = t.PersimmonConfig(**words, qk_layernorm=True)
    return t.FuyuConfig(**{"text_config": text, "patch_size": 10, "image_token_id": token, **changes})


def _fuyu_processor(tokenizer: Any, template: str, config: Any) -> Any:
    side = config.patch_size
    pictures = t.FuyuImageProcessor(
        size={"height": 6 * side, "width": 9 * side}, patch_size={"height": side, "width": side}
    )
    return t.FuyuProcessor(pictures, tokenizer)


PUBLISHED = {"Fuyu": Published(_fuyu, _fuyu_processor, "|SPEAKER|", tokenizer=_tokenizer, ending="ForCausalLM")}
CASES = {
    "Fuyu": Case("Fuyu"),
    "Fuyu, smaller patches, tied": Case("Fuyu", {"patch_size": 7, "tie_word_embeddings": True}),
}
