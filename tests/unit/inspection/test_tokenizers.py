"""Tokens as training has them, wherever the LLM's tokenizer and template come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.inspection.inputs import load_tokenizer
from mmllm.llms.load import load_llm
from mmllm.messages.tokenize import Prompter
from mmllm.recipe.models import Llm
from mmllm.types import Message, Sample
from tests.support.gguf_files import write_gguf
from tests.support.parts import tiny_llm_folder, tiny_model, tiny_tokenizer
from tests.support.vlms import vlm_folder

TALK = Sample("talk", (Message("user", "What is it?"), Message("assistant", "A red square.")))


def gguf(folder: Path) -> Llm:
    write_gguf(folder / "model.gguf", tiny_model("llama"), tiny_tokenizer(), "F32")
    return Llm(path=str(folder / "model.gguf"))


def published(folder: Path) -> Llm:
    return Llm(path=str(vlm_folder("Llava", folder / "vlm")[0]))


def named_template(folder: Path) -> Llm:
    return Llm(path=str(tiny_llm_folder(folder, "llama")), template="chatml")


@pytest.mark.parametrize("make", [gguf, published, named_template])
def test_tokens_are_those_of_training(make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLLM_CACHE", str(tmp_path / "cache"))
    assert callable(make)
    llm = make(tmp_path)
    _, trained = load_llm(llm.path, "float32", file=llm.file, template=llm.template)
    seen = load_tokenizer(llm)
    assert seen.chat_template == trained.chat_template
    one, other = (Prompter(tokenizer, []).tokenize_for_training(TALK) for tokenizer in (seen, trained))
    assert one == other and one.labels != [-100] * len(one.labels)
