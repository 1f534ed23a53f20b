"""Imported models that hear: answers about sounds, what is refused, what no tokenizer or template says."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import yaml
from safetensors.torch import load_file, save_file

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.sounds import Sounds, signal, wav
from mmllm.testing.tiny.published import published_folder
from mmllm.types import Message, Sample
from tests.support.training import train_here

SECONDS = (0.02, 0.4, 0.05)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}{{ '[BEGIN_AUDIO][AUDIO]' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ '</s>' }}{% endif %}{% endfor %}"
)
"""What Mistral's prompts look like: the first token, instructions between marks, answers that end."""


def tekken() -> dict[str, Any]:
    """A vocabulary of bytes in the format of Mistral AI."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{n}>" for n in range(5, 17))]
    special += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", *(f"<SPECIAL_{n}>" for n in range(19, 24))]
    special += ["[AUDIO]", "[BEGIN_AUDIO]", *(f"<SPECIAL_{n}>" for n in range(26, 30))]
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "num_vocab_tokens": 256, "default_vocab_size": 286, "default_num_special_tokens": 30, "version": "v7",
        },
        "vocab": [
            {"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode(), "token_str": None} for n in range(256)
        ],
        "special_tokens": [{"rank": n, "token_str": one, "is_control": True} for n, one in enumerate(special)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    published_folder("Qwen2Audio", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


def sound(seconds: float) -> bytes:
    return wav(signal(round(seconds * 16_000), 16_000), 16_000)


def samples(train: bool) -> list[Sample]:
    """One conversation about all the sounds, one about each, one about none; a sound of 0.02 seconds has no tokens."""
    about = [SECONDS, *((one,) for one in SECONDS), ()]
    found = []
    for number, lengths in enumerate(about):
        media = {"audio": tuple(sound(one) for one in lengths)} if lengths else {}
        messages = [Message("user", "<audio>\n" * len(lengths) + "What is it?")]
        messages += [Message("assistant", "A tone.")] if train else []
        found.append(Sample(str(number), tuple(messages), media))
    return found


def test_an_imported_run_answers_about_sounds_as_the_model(qwen: Path) -> None:
    """Two sounds in one question, numbered by the template."""
    model = mmllm.load(qwen / "run")
    processor = t.AutoProcessor.from_pretrained(qwen / "vlm")
    theirs = t.Qwen2AudioForConditionalGeneration.from_pretrained(qwen / "vlm").eval()
    talk = [{"role": "user", "content": [{"type": "audio"}, {"type": "audio"}, {"type": "text", "text": "Which?"}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    assert "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nAudio 2: " in text
    heard = [signal(round(seconds * 16_000), 16_000) for seconds in (0.3, 0.7)]
    given = processor(text=[text], audio=heard, sampling_rate=16_000, return_tensors="pt")
    ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
    assert model.chat("Which?", audio=[sound(0.3), sound(0.7)], max_new_tokens=6).strip() == expected


def test_sounds_in_two_turns_are_numbered_on(qwen: Path) -> None:
    """Ids, logits and answer of a conversation whose second question brings another sound."""
    model = mmllm.load(qwen / "run").model
    processor = t.AutoProcessor.from_pretrained(qwen / "vlm")
    theirs = t.Qwen2AudioForConditionalGeneration.from_pretrained(qwen / "vlm").eval()
    said = ["What is it?", "A tone.", "And this?"]
    parts: list[list[dict[str, str]]] = [[{"type": "text", "text": one}] for one in said]
    parts[0].insert(0, {"type": "audio"})
    parts[2].append({"type": "audio"})
    roles = ("user", "assistant", "user")
    talk = [{"role": role, "content": content} for role, content in zip(roles, parts, strict=True)]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    heard = [signal(round(seconds * 16_000), 16_000) for seconds in (0.6, 0.2)]
    given = processor(text=[text], audio=heard, sampling_rate=16_000, return_tensors="pt")
    shown = [f"<audio>\n{said[0]}", said[1], f"{said[2]}\n<audio>"]
    messages = tuple(Message(role, one) for role, one in zip(roles, shown, strict=True))
    sample = Sample("two", messages, {"audio": (sound(0.6), sound(0.2))})
    encoded = encode(sample, Prompter(model.llm.tokenizer, model.places), model.inputs, 512, train=False)
    with torch.no_grad():
        expected, found = theirs(**given).logits[0], model.logits(collate([encoded], model.inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    ids = theirs.generate(**given, max_new_tokens=5, do_sample=False)[0, given["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd").strip()
    assert Generator(model).generate([sample], 5, ())[0].text.strip() == answer
    assert "Audio 2: <|audio_bos|>" in text


def test_packed_is_unpacked_also_without_tokens(qwen: Path) -> None:
    """Loss and gradients of conversations in one row, among them a sound that gives no token."""
    model = mmllm.load(qwen / "run").model
    prompter = Prompter(model.llm.tokenizer, model.places)
    encoded = [encode(one, prompter, model.inputs, 512, train=True) for one in samples(train=True)]
    assert [sum(span.length for span in one.spans) for one in encoded] == [11, 0, 10, 1, 0]
    model.connectors.requires_grad_(True)

    def learned(groups: list[list[Any]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = torch.stack([model(collate(group, model.inputs))[0] for group in groups]).sum()
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.connectors.parameters()])

    loss, gradient = learned([encoded])
    alone, other = learned([[one] for one in encoded])
    assert loss == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)
    assert gradient.abs().max() > 0


def test_answers_together_are_those_alone(qwen: Path) -> None:
    model = mmllm.load(qwen / "run").model
    together = Generator(model).generate(samples(train=False), 5, ())
    alone = [Generator(model).generate([one], 5, ())[0] for one in samples(train=False)]
    assert [one.text for one in together] == [one.text for one in alone]


def test_more_than_the_model_hears_is_refused_and_never_cut(qwen: Path) -> None:
    with pytest.raises(MmllmError, match=r"lasts 1\.2 seconds; at most 1 are read"):
        mmllm.load(qwen / "run").chat("What?", audio=sound(1.2), max_new_tokens=2)


def test_a_copied_run_is_checked_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published_folder("AudioFlamingo3", tmp_path / "vlm")
    import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run", copy=True)
    shutil.rmtree(tmp_path / "vlm")
    assert mmllm.load(tmp_path / "run").chat("What?", audio=sound(1.5), max_new_tokens=3)
    assert main(["check", str(tmp_path / "run")]) == 0
    assert "ok (no stages yet)" in capsys.readouterr().out


def test_what_the_importer_believes_of_sounds_is_compared(qwen: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from mmllm.published.architectures import qwen2_audio as architecture

    right = architecture.sections

    def wrong(source: Any) -> Any:
        found = right(source)
        found.encoders["audio"]["layers"] = [-1]
        return found

    monkeypatch.setattr(architecture, "sections", wrong)
    with pytest.raises(MmllmError, match=r"differs .* first in its ids \(0\.02 s\): 87 there, 88 here"):
        import_checkpoint(str(qwen / "vlm"), tmp_path / "run")


def test_newer_names_in_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    """transformers 5.23 still saves sound models under older names; a file may have those of the model in memory."""
    monkeypatch.setattr(Sounds, "shown", lambda self: [self._sounds([0.5])])
    folder = published_folder("Qwen2Audio", tmp_path / "vlm")
    tensors = load_file(folder / "model.safetensors")
    newer = {in_memory(name): tensor for name, tensor in tensors.items()}
    assert not newer.keys() & tensors.keys()
    save_file(newer, folder / "model.safetensors", metadata={"format": "pt"})
    assert all(stage.equal for stage in import_checkpoint(str(folder), tmp_path / "run"))


def in_memory(name: str) -> str:
    """A tensor's name in the model itself."""
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.")
        return inner.replace("model.", "model.language_model.", 1) if inner.startswith("model.") else inner
    return f"model.{name}"


def test_windows_apart_are_not_voxtral(tmp_path: Path, monkeypatch: Any) -> None:
    from mmllm.published.architectures import voxtral as architecture

    right = architecture.sections

    def wrong(source: Any) -> Any:
        found = right(source)
        found.encoders["audio"] |= {"whole_windows": False}
        return found

    published_folder("Voxtral", tmp_path / "vlm")
    monkeypatch.setattr(architecture, "sections", wrong)
    with pytest.raises(MmllmError, match="must divide a grid of time alone"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")


def test_voxtral_without_a_template_and_without_its_control_tokens_is_refused(tmp_path: Path) -> None:
    folder = published_folder("Voxtral", tmp_path / "vlm")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(
        MmllmError, match=r"its tokenizer lacks .*\[INST\].* save a chat_template\.jinja .* writes \[AUDIO\] for"
    ):
        import_checkpoint(str(folder), tmp_path / "run")


@pytest.mark.parametrize("template", [None, INSTRUCT])
def test_voxtral_as_mistral_ai_saves_it(template: str | None, tmp_path: Path, monkeypatch: Any) -> None:
    """A tekken.json and no template, or one that was added."""
    monkeypatch.setattr(Sounds, "shown", lambda self: [self._sounds([0.5])])
    folder = published_folder("Voxtral", tmp_path / "vlm", audio_token_id=24)
    for file in (*folder.glob("tokenizer*"), *folder.glob("*.jinja")):
        file.unlink()
    (folder / "tekken.json").write_text(json.dumps(tekken()))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    stages = import_checkpoint(str(folder), tmp_path / "run")
    assert len(stages) == 8 and all(stage.equal for stage in stages)
    assert main(["check", str(tmp_path / "run")]) == 0
    model = mmllm.load(tmp_path / "run").model
    if template is not None:
        return
    turns = (Message("user", "<audio> A?"), Message("assistant", "B"), Message("user", "C"))
    encoded = Prompter(model.llm.tokenizer, model.places).tokenize_prompt(Sample("x", turns, {"audio": (sound(0.1),)}))
    said = [number + 30 for number in b"ABC"]  # of the bytes, behind 30 special tokens
    space, ask = 30 + ord(" "), 30 + ord("?")
    assert [one for one in encoded.ids if one != 24] == [1, 3, 25, space, said[0], ask, 4, said[1], 2, 3, said[2], 4]


def test_voxtrals_template_has_a_system_message_beside_text_alone() -> None:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    from mmllm.published.architectures.voxtral import TEMPLATE

    told = {"role": "system", "content": "s"}
    heard = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "u"}]}
    (shown,), _ = render_jinja_template([[told, {"role": "user", "content": "u"}]], chat_template=TEMPLATE)
    assert shown == "<s>[SYSTEM_PROMPT]s[/SYSTEM_PROMPT][INST]u[/INST]"
    with pytest.raises(TemplateError, match="no system message beside sound"):
        render_jinja_template([[told, heard]], chat_template=TEMPLATE)


def test_voxtral_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = published_folder("Voxtral", tmp_path / "vlm")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(MmllmError, match=r"has no tokenizer that .* put its tokenizer\.json there") as error:
        import_checkpoint(str(folder), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_granite_speech_is_refused_by_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t.GraniteSpeechConfig().save_pretrained(tmp_path / "vlm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmllmError, match=r"needs the package torchaudio, .*: pip install 'mmllm\[granite\]'"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")


def test_raw_samples_in_place_of_a_tower(qwen: Path, tmp_path: Path) -> None:
    """One line changed, another encoder: a recipe is trained from the imported one and answers."""
    words = yaml.safe_load((qwen / "run" / "recipe.yaml").read_text())
    words["encoders"]["audio"] = {"type": "waveform"}
    rows = []
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(sound(0.2 + 0.1 * number))
        rows.append({"audio": f"{number}.wav", "question": "Which?", "answer": f"tone {number}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words["data"] = {"tones": {"type": "chat", "path": str(tmp_path / "rows.jsonl")}}
    stage = {"train": {"connectors.audio": 1e-2}, "data": {"tones": 1.0}, "steps": 3, "batch": 2}
    words |= {"name": "raw", "stages": {"align": {**stage, "cache": {"dir": str(tmp_path / "features")}}}}
    (tmp_path / "raw.yaml").write_text(yaml.safe_dump(words, sort_keys=False))
    assert main(["check", str(tmp_path / "raw.yaml")]) == 0
    train_here(tmp_path / "raw.yaml", tmp_path / "raw")
    model = mmllm.load(tmp_path / "raw")
    assert type(model.encoders["audio"]).__name__ == "WaveformEncoder"
    assert isinstance(model.chat("Which?", audio=sound(0.3), max_new_tokens=3), str)
