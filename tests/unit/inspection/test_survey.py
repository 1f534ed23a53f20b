"""All rows of a dataset: lengths, bad rows and their reasons, rows over the context, repeated ones, without media."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmllm import registry
from mmllm.inspection import survey as surveys
from mmllm.inspection.findings import findings, scope, spreads
from mmllm.inspection.histogram import histogram
from mmllm.inspection.inputs import Unseen, reading_of
from mmllm.inspection.media_files import check_file
from mmllm.inspection.reasons import Reasons
from mmllm.inspection.report import inspect
from mmllm.inspection.survey import Length, Survey, survey
from mmllm.testing.tiny import encoders as tiny
from tests.unit.inspection.recipes import recipe, row, write_media


def looked(folder: Path, rows: list[dict], keys: tuple[str, ...] = ("image",), **llm: int) -> Survey:
    made = recipe(folder, rows, keys=keys, **llm)
    return survey(registry.load("datasets", "chat_jsonl")(path=f"{folder}/chat.jsonl"), reading_of(made))


def test_lengths_are_those_of_training(tmp_path: Path) -> None:
    write_media(tmp_path)
    found = looked(tmp_path, [row(), row(image="image.png"), row("a red square")])
    text = "<|user|>what is here?<|end|><|assistant|>red<|end|>"
    tokenizer = reading_of(recipe(tmp_path, [row()], keys=())).tokenizer
    n_text = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    newline = len(tokenizer("\n", add_special_tokens=False)["input_ids"])
    assert found.lengths[0] == Length(n_text, 0, 2)
    assert found.lengths[1] == Length(n_text + newline, 16, 2)
    more = len(tokenizer("a red square", add_special_tokens=False)["input_ids"]) - 1
    assert found.lengths[2] == Length(n_text + more, 0, 2 + more)
    assert found.spread(lambda length: length.media) == (0, 0, 16 / 3, 16, 16)
    heads, *lines = spreads(found)
    assert heads == ("tokens", "least", "median", "mean", "95 %", "most")
    assert [line[0] for line in lines] == ["text", "media", "both", "learned"]
    assert lines[1] == ("media", "0", "0", "5.3", "16", "16")


def test_bad_rows_are_grouped_by_their_reason(tmp_path: Path) -> None:
    write_media(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "noise.png").write_bytes(b"no picture at all")
    silent = {"messages": [{"role": "user", "content": "alone"}]}
    places = {"messages": [{"role": "user", "content": "<image><image>"}, row()["messages"][1]]}
    rows = [row(image=f"gone{n}.png") for n in range(7)] + [silent, silent, {**places, "image": ["image.png"]}]
    rows += [row(image="empty.png"), row(image="noise.png"), row(image="image.png")]
    with (tmp_path / "chat.jsonl").open("w") as file:
        file.write("".join(json.dumps(one) + "\n" for one in rows) + "{not json\n")
    (tmp_path / "other").mkdir()
    made = recipe(tmp_path / "other", rows)
    dataset = registry.load("datasets", "chat_jsonl")(path=f"{tmp_path}/chat.jsonl")
    found = survey(dataset, reading_of(made))
    listed = found.reasons.listed()
    assert found.reasons.count == 13 and found.n_read == 14 and len(found.lengths) == 1
    assert [one.rows.count for one in listed] == [7, 2, 1, 1, 1, 1]
    assert listed[0].sentence == f"image 1: {tmp_path}/gone0.png does not exist"
    assert listed[0].rows.names == [f"{tmp_path}/chat.jsonl:{n}" for n in range(1, 6)]
    assert listed[0].rows.listed().endswith("chat.jsonl:5 and 2 more")
    said = " ".join(one.sentence for one in listed[1:])
    for words in (
        "no message of the assistant",
        "2 <image> placeholders in the text, 1 items",
        "is empty",
        "cannot be",
    ):
        assert words in said
    first = findings(found)[0]
    assert first.level == "bad" and first.title == "13 rows (92.9 %) cannot be used" and len(first.details) == 6


def test_reasons_differ_by_words_not_by_names_or_numbers() -> None:
    reasons = Reasons()
    reasons.add("a:1", "a:1: image 1: /data/x 1.png does not exist")
    reasons.add("a:2", "a:2: image 2: /data/x 22.png does not exist")
    reasons.add("a:3", "a:3: 2 <image> placeholders in the text, 1 items given")
    reasons.add("a:4", "a:4: 2 <video> placeholders in the text, 1 items given")
    assert [(one.sentence[:7], one.rows.count) for one in reasons.listed()] == [
        ("image 1", 2), ("2 <imag", 1), ("2 <vide", 1)
    ]  # fmt: skip


def test_rows_over_the_context_are_counted_and_kept_in_the_lengths(tmp_path: Path) -> None:
    found = looked(tmp_path, [row(), row("w " * 40), row()], keys=(), context=30)
    assert (found.too_long.count, found.too_long.names) == (1, [f"{tmp_path}/chat.jsonl:2"])
    assert len(found.lengths) == 3 and found.skipped == 1
    assert "1 row (33.3 %) over the context of 30 tokens" in findings(found)[1].title
    exact = found.lengths[0].total
    assert looked(tmp_path, [row()], keys=(), context=exact).too_long.count == 0
    assert looked(tmp_path, [row()], keys=(), context=exact - 1).too_long.count == 1


def test_duplicates_say_the_same_of_the_same_media(tmp_path: Path) -> None:
    write_media(tmp_path)
    shutil.copy(tmp_path / "image.png", tmp_path / "copy.png")
    tiny.pictures()[0].save(tmp_path / "other.png")
    rows = [row(image=name) for name in ("image.png", "other.png", "copy.png", "image.png")]
    rows += [row(), row("blue"), row(), row(asked="again?")]
    found = looked(tmp_path, rows).duplicates
    names = [f"{tmp_path}/chat.jsonl:{n}" for n in range(1, 9)]
    assert (found.count, found.n_groups) == (3, 2)
    assert found.groups == ((names[0], names[2], names[3]), (names[4], names[6]))


def test_rows_without_media_are_named_where_there_are_encoders(tmp_path: Path) -> None:
    write_media(tmp_path)
    rows = [row(), row(image="image.png")]
    found = looked(tmp_path, rows, keys=("image", "audio"))
    assert found.without_media.names == [f"{tmp_path}/chat.jsonl:1"]
    assert found.with_media == {"image": 1, "audio": 0}
    titles = [finding.title for finding in findings(found)]
    assert "1 row (50 %) with <image>" in titles and "no row has <audio>" in titles
    assert "1 row (50 %) without media, though the recipe has encoders" in titles
    assert looked(tmp_path, [row()], keys=()).without_media.count == 0


def test_of_a_long_dataset_the_first_rows_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "MOST", 4)
    found = looked(tmp_path, [row() for _ in range(6)], keys=())
    assert (found.n_rows, found.n_read, len(found.lengths)) == (6, 4, 4)
    assert scope(found).startswith("the first 4 of 6 rows")
    monkeypatch.undo()
    assert scope(looked(tmp_path, [row() for _ in range(6)], keys=())) == "all 6 rows"


def test_bins_hold_every_row_once() -> None:
    lengths = [Length(n, n % 3, 1) for n in range(0, 1700, 7)]
    bins = histogram(lengths)
    assert sum(one.n_rows for one in bins) == len(lengths) and len(bins) <= 20
    assert {one.end - one.start for one in bins} == {100} and bins[0].start == 0
    for one in bins:
        inside = [length for length in lengths if one.start <= length.total < one.end]
        assert one.n_rows == len(inside)
        assert one.media_share == sum(x.media for x in inside) / sum(x.total for x in inside)
    assert histogram([]) == []
    assert [(one.start, one.end) for one in histogram([Length(1, 0, 1)])] == [(0, 1), (1, 2)]


def test_parts_of_files_are_looked_for_by_their_file(tmp_path: Path) -> None:
    write_media(tmp_path)
    for name in ("graph.json#2", "video.mp4#t=0,1", "video.mp4"):
        check_file(tmp_path / name, ["video"])
    with pytest.raises(Exception, match="does not exist"):
        check_file(tmp_path / "gone.json#2", ["graph"])
    check_file(b"bytes are not looked at", ["image"])


def test_what_is_not_looked_at_is_said(tmp_path: Path) -> None:
    write_media(tmp_path)
    made = recipe(tmp_path, [row(image="image.png"), row()], keys=("image",))
    encoder = made.encoders["image"].model_copy(update={"args": {"model": str(tmp_path / "no" / "clip")}})
    broken = made.model_copy(update={"encoders": {"image": encoder}})
    report = inspect(broken)
    (note,) = report.notes
    assert note.startswith("Not looked at: <image>") and "no/clip" in note
    found = report.entries[0].survey
    assert [length.media for length in found.lengths] == [0, 0] and not found.reasons.count
    assert report.entries[0].rows[0].n_media == 0 and not report.entries[0].rows[0].views
    assert Unseen().layout({}) == []
