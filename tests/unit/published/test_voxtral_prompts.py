"""Voxtral's prompts beside those of Mistral AI's own package, where that is installed; its vocabulary comes with it."""

from __future__ import annotations

import base64
import json
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
import transformers as t

from mmllm.messages.chat_templates import set_template
from mmllm.messages.tokenize import Prompter
from mmllm.published.architectures.voxtral import TEMPLATE
from mmllm.published.media.sounds import signal, wav
from mmllm.types import Message, Place, Sample
from mmllm.vlms.vocabulary import AS_ANY_OTHER

WORDS = ("what", "is", " said", "?", "\n", "\u00e9", "\u65e5\u672c", "  ", "123", "a", "The tone is", "!", "word word")
AUDIO = 22
"""Id of [AUDIO] below."""


def conversations(rng: Random, n: int) -> list[list[tuple[str, str, int]]]:
    """(role, text, sounds in front of it) of each message; a text behind a sound begins with no line's end."""
    found = []
    for _ in range(n):
        system = rng.random() < 0.25
        talk = [("system", "".join(rng.choices(WORDS, k=3)), 0)] if system else []
        for turn in range(turns := rng.randint(1, 3)):
            text = "".join(rng.choices(WORDS, k=rng.randint(1, 6)))
            sounds = 0 if system else rng.choice([0, 1, 1, 2])
            talk.append(("user", text.lstrip("\n") or "a" if sounds else text, sounds))
            if turn < turns - 1:
                talk.append(("assistant", "".join(rng.choices(WORDS, k=3)).rstrip(" ") or "x", 0))
        found.append(talk)
    return found


def test_ids_are_those_of_mistral_common(tmp_path: Path) -> None:
    common = pytest.importorskip("mistral_common")
    from mistral_common.protocol.instruct import chunk, messages
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.base import SpecialTokens
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    words = json.loads((Path(common.__file__).parent / "data" / "tekken_240911.json").read_text())
    words.pop("image")
    words["config"]["version"] = "v7"
    bins = {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}
    sound = {"sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": 30.0}
    words["audio"] = {**sound, "audio_encoding_config": bins}
    special = [dict(one) for one in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    more = [one.value for one in SpecialTokens if one.value not in {token["token_str"] for token in special}]
    special += [{"rank": len(special) + n, "token_str": one, "is_control": True} for n, one in enumerate(more)]
    words["special_tokens"] = special
    (tmp_path / "tekken.json").write_text(json.dumps(words))
    t.MistralConfig(vocab_size=131072).save_pretrained(tmp_path)
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    tokenizer = t.AutoTokenizer.from_pretrained(tmp_path, **AS_ANY_OTHER)
    set_template(tokenizer, str(tmp_path / "template.jinja"))
    prompter = Prompter(tokenizer, [Place("audio", "[AUDIO]", "audio")])
    theirs = MistralTokenizer.from_file(str(tmp_path / "tekken.json"))
    data = wav(signal(800, 16000), 16000)
    raw = base64.b64encode(data).decode()
    kinds = {"system": messages.SystemMessage, "user": messages.UserMessage, "assistant": messages.AssistantMessage}
    for number, talk in enumerate(conversations(Random(0), 300)):
        asked = []
        for role, text, sounds in talk:
            parts = [*[chunk.AudioChunk(input_audio=raw)] * sounds, chunk.TextChunk(text=text)]
            asked.append(kinds[role](content=parts if sounds else text))
        expected = theirs.encode_chat_completion(ChatCompletionRequest(messages=asked)).tokens
        media = (data,) * sum(sounds for _, _, sounds in talk)
        said = tuple(Message(role, "<audio>" * sounds + text) for role, text, sounds in talk)
        ids = prompter.tokenize_prompt(Sample(str(number), said, {"audio": media} if media else {})).ids
        # a sound is one place here and as many tokens as it has there
        short = [one for one, group in groupby(expected) for _ in range(1 if one == AUDIO else len(list(group)))]
        assert ids == short, talk
