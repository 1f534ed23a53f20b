"""Published sets by their own columns: what becomes of a row, and the scores that are no means of questions."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered, Benchmark
from mmllm.evaluation.benchmarks.published import files
from mmllm.evaluation.metrics.whole import f1_of_yes
from mmllm.evaluation.summary import score_of, summary
from mmllm.testing.tiny.published_benchmarks import WRITERS, opened, png, tables, write_table

FIRST = {
    "vizwiz": ("respond with 'Unanswerable'.\nAnswer the question using a single word", "other", ("blue",) * 10),
    "okvqa": ("sky is this?\nAnswer the question using a single word", "eight", ("blue",) * 10),
    "infographicvqa": ("How much?\nAnswer the question using", "single span", ("40 %", "40%")),
    "ocrbench": ("<image>\nWhat is written in the image?", "Regular Text Recognition", ("CENTRE",)),
    "realworldqa": ("Where is it?\nA. left\nB. right\nPlease answer directly", "", ("B", "")),
    "gqa": ("What is it?\nAnswer the question using", "", ("car",)),
    "ai2d": ("Which stage is it?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer with the option's letter", "", ("C", "3")),
    "scienceqa": ("Context: It floats.\nWhich is it?\nA. solid\nB. gas\n", "natural science: physics", ("B", "gas")),
    "mmstar": ("D: a bus\nAnswer with the option's", "coarse perception: image scene & topic", ("A", "")),
    "seed_bench": ("How many?\nA. one\nB. two\nC. three\nD. four\n", "5", ("C", "three")),
    "cv_bench": ("(A) the car\n(B) the bus\nAnswer with", "ADE20K: Count", ("B", "the bus")),
    "mmbench": ("<image>\nWhich? There are several options:\nA. blue\nB. red\n\n", "finegrained: color", ("A", "blue")),
    "mmmu": (
        "<image> Which is like <image>?\nA. <image>\nB. 5 %\n\nAnswer with the option's letter",
        "Business: Accounting",
        ("A", "<image 3>"),
    ),
    "mmmu_pro": (
        "How many <image>?\nA. one\nB. two\nC. three\n\nAnswer with the option letter from",
        "Humanities and Social Science: History",
        ("A", "one"),
    ),
    "mathvista": ("<image>\nHint: ...\nQuestion: How long?\nChoices:", "figure question answering", ("B", "13 cm")),
    "pope": ("Is there a dog?\nAnswer the question using", "random", ("yes",)),
    "mme": ("<image>\nIs it blue? Please answer yes or no.", "color", ("yes",)),
    "hallusion_bench": ("<image>\nIs it so?", "VD: figure", ("yes",)),
    "refcoco": ("Where is left one?", "", (0.25, 0.25, 0.75, 0.75)),
    "refcoco_plus": ("Where is left one?", "", (0.25, 0.25, 0.75, 0.75)),
    "refcocog": ("Where is left one?", "", (0.25, 0.25, 0.75, 0.75)),
    "ref_l4": ("the blue box on the left", "", (0.0, 0.0, 0.5, 1.0)),
    "coco_captions": ("Provide a one-sentence caption", "", ("A man rides a horse.", "a man on a brown horse")),
    "nocaps": ("Provide a one-sentence caption", "", ("A man rides a horse.", "a man on a brown horse")),
    "video_mme": ("How many?\nA. one.\nB. two.\nC. three.\nD. four.\nThe best", "short: Counting", ("B", "two.")),
    "egoschema": ("What?\nA. C does v\nB. C does w\n", "", ("A", "C does v")),
    "perception_test": ("What moved?\nA. cup\nB. pen\nC. none\n", "physics: descriptive", ("B", "pen")),
    "longvideobench": ("Where?\nA. in\nB. out\nAnswer", "15: S2E", ("A", "in")),
    "tgif_qa": ("What does it do ?\nA. move 1\n", "", ("A", "move 1")),
    "mmau": ("What is heard?\nA. rain\nB. wind\nAnswer", "sound: easy", ("B", "wind")),
    "air_bench": ("A. a man\nB. a woman\nAnswer", "Speaker_Gender_Recognition: meld", ("B", "a woman")),
    "vocalsound": ("<audio>\nClassify the human vocal sound", "Laughter", ("Laughter",)),
    "librispeech": ("<audio>\nPlease recognize the speech", "", ("IT'S HE",)),
}
"""Name -> a part of what is asked first, its kind, and what is right."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_becomes_a_question(tmp_path: Path, name: str) -> None:
    question = opened(name, tmp_path)[0]
    text, kind, reference = FIRST[name]
    assert text in question.sample.messages[0].text
    assert question.kind == kind and question.reference == reference


FIELD = {"vizwiz": "answers", "longvideobench": "correct_choice"}


@pytest.mark.parametrize(
    ("name", "nothing"),
    [("vizwiz", None), ("vizwiz", ""), ("mmbench", None), ("mmau", ""), ("longvideobench", None), ("egoschema", "")],
)
def test_withheld_answers_are_said_and_not_scored(tmp_path: Path, name: str, nothing: str | None) -> None:
    opened(name, tmp_path)
    (file, rows) = next(iter(tables(name).items()))
    field = FIELD.get(name, "answer")
    listed = isinstance(rows[0][field], list)
    for row in rows:
        row[field] = ([] if nothing is None else [""] * 10) if listed else nothing
    write_table(tmp_path / file, rows)
    with pytest.raises(MmllmError, match=rf"the answers of the split \w+ are withheld \(none of {len(rows)} rows"):
        registry.load("benchmarks", name)(path=str(tmp_path))
    some = tables(name)[file]
    some[1][field] = rows[1][field]
    write_table(tmp_path / file, some)
    with pytest.raises(MmllmError, match=r"parquet#2: it has no answer"):
        registry.load("benchmarks", name)(path=str(tmp_path))


def test_a_missing_part_of_the_tables_is_named(tmp_path: Path) -> None:
    rows = tables("vizwiz")["data/val-00000-of-00001.parquet"]
    for part in (0, 2):
        write_table(tmp_path / f"data/val-0000{part}-of-00003.parquet", rows)
    vizwiz = registry.load("benchmarks", "vizwiz")
    with pytest.raises(MmllmError, match=r"2 of 3 parts; val-00001-of-00003\.parquet is missing"):
        vizwiz(path=str(tmp_path))
    with pytest.raises(MmllmError, match="one file, and split: train is of the folder"):
        vizwiz(path=str(tmp_path / "data/val-00000-of-00003.parquet"), split="train")
    assert len(vizwiz(path=str(tmp_path / "data/val-00000-of-00003.parquet"))) == 2


def test_a_data_set_of_the_hub_is_asked_for_by_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def open_rows(*words: Any) -> Any:
        asked.append(words)
        raise MmllmError("offline")

    monkeypatch.setattr(files, "open_rows", open_rows)
    with pytest.raises(MmllmError, match=r"scienceqa: offline\. Fetch"):
        registry.load("benchmarks", "scienceqa")(path="hf://datasets/lmms-lab/ScienceQA")
    assert asked == [("hf://datasets/lmms-lab/ScienceQA", "test", False, "ScienceQA-IMG")]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("ai2d", {"answer": "4"}, "it has the answer '4'; it is a number from 0 to 3"),
        ("mmbench", {"answer": "C"}, "it has the answer 'C'; it is a letter of AB"),
        ("mmbench", {"A": None}, "without a gap"),
        ("ai2d", {"question": None}, "it has the question None; it is a text"),
        ("mmau", {"answer": "snow"}, "it has the answer 'snow'; it is the text of an option"),
        ("pope", {"answer": "maybe"}, "it is yes or no"),
        ("ref_l4", {"bbox": [0.0, 0.0, 50.0, 10.0]}, "not inside of 40 x 20 pixels"),
        ("gqa", {"imageId": "n9"}, "its picture n9 is not in"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(tmp_path: Path, name: str, change: dict[str, Any], sentence: str) -> None:
    opened(name, tmp_path)
    file, rows = next(iter(tables(name).items()))
    write_table(tmp_path / file, [rows[0] | change, *rows[1:]])
    with pytest.raises(MmllmError, match=rf"(parquet|csv)#1: .*{sentence}"):
        registry.load("benchmarks", name)(path=str(tmp_path))


def test_official_tables_give_the_same_questions_as_the_hubs(tmp_path: Path) -> None:
    (tmp_path / "OCRBench_Images").mkdir()
    (tmp_path / "OCRBench_Images" / "a.png").write_bytes(png()["bytes"])
    (rows,) = tables("ocrbench").values()
    names = {"dataset": "dataset_name", "question_type": "type", "question": "question"}
    official = [
        {"id": n, "image_path": "a.png", "answers": row["answer"] if n else row["answer"][0]}
        | {theirs: row[ours] for ours, theirs in names.items()}
        for n, row in enumerate(rows)
    ]
    write_table(tmp_path / "OCRBench.json", official)
    benchmark, hub = registry.load("benchmarks", "ocrbench")(path=str(tmp_path)), opened("ocrbench", tmp_path / "hub")
    for number in range(2):
        one, other = benchmark[number], hub[number]
        assert (one.text, one.kind, one.reference, one.facts) == (other.text, other.kind, other.reference, other.facts)
    assert benchmark.graded("It says Centre.", benchmark[0]) == (1.0, True)
    assert benchmark.graded(r"x ^{2}", benchmark[1]) == (1.0, True)
    assert benchmark.graded(r"X^{2}", benchmark[1]) == (0.0, True)


OFFICIAL: list[tuple[str, str, Sequence[str], dict[str, str], dict[str, Any]]] = [
    # set, table, files that its rows name, column of the hub's form -> of the official one, other arguments
    ("mmbench", "MMBench_dev_en_V11.tsv", (), {"L2-category": "l2-category"}, {}),
    ("hallusion_bench", "HallusionBench.json", ("VD/a.png",), {"image": "filename"}, {}),
    ("pope", "coco_pope_random.json", ("val2014/a.png",), {"question": "text", "answer": "label"}, {"file": True}),
    ("mmau", "mmau-test-mini.json", ("a.wav",), {"audio": "audio_id"}, {}),
    ("longvideobench", "lvb_val.json", ("videos/abc.mp4",), {}, {}),
    ("mmstar", "mmstar.tsv", (), {}, {"file": True}),
]


@pytest.mark.parametrize(("name", "table", "named", "names", "how"), OFFICIAL, ids=[one[0] for one in OFFICIAL])
def test_official_tables_ask_what_the_hubs_ask(
    tmp_path: Path, name: str, table: str, named: Sequence[str], names: dict[str, str], how: dict[str, Any]
) -> None:
    hub = opened(name, tmp_path / "hub")
    rows = []
    for row in next(iter(tables(name).values())):
        plain = {names.get(key, key): value for key, value in row.items()}
        for key, value in plain.items():
            if isinstance(value, dict) and "bytes" in value:  # a name of a file, or base64
                plain[key] = Path(named[0]).name if named else base64.b64encode(value["bytes"]).decode()
        if name == "hallusion_bench":
            plain |= {"visual_input": "1", "filename": named[0]}
        if name == "longvideobench":
            plain["candidates"] = [plain.pop(f"option{n}") for n in range(5)][:2]
        rows.append(plain)
    for file in named:
        (tmp_path / "official" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "official" / file).write_bytes(png()["bytes"])
    write_table(tmp_path / "official" / table, rows)
    path = tmp_path / "official" / table if how.get("file") else tmp_path / "official"
    official = registry.load("benchmarks", name)(path=str(path))
    assert len(official) == len(hub)
    for number in range(len(hub)):
        one, other = official[number], hub[number]
        assert (one.text, one.kind, one.reference, one.options) == (
            other.text,
            other.kind,
            other.reference,
            other.options,
        )
        assert one.sample.messages == other.sample.messages and one.sample.media.keys() == other.sample.media.keys()
        assert official.cluster(one) == hub.cluster(other)


def test_questions_without_a_picture_have_no_place_for_one(tmp_path: Path) -> None:
    opened("scienceqa", tmp_path)
    (rows,) = tables("scienceqa").values()
    write_table(tmp_path / "ScienceQA-FULL/test-00000-of-00001.parquet", [rows[0] | {"image": None}, rows[1]])
    benchmark = registry.load("benchmarks", "scienceqa")(path=str(tmp_path), config="ScienceQA-FULL")
    assert benchmark[0].sample.media == {} and benchmark[0].sample.messages[0].text.startswith("Context: It floats.")
    assert benchmark[1].sample.messages[0].text.startswith("<image>\nWhich")


def test_every_picture_of_a_row_has_a_place(tmp_path: Path) -> None:
    opened("seed_bench", tmp_path)
    (rows,) = tables("seed_bench").values()
    write_table(tmp_path / "data/test-00000-of-00001.parquet", [{**rows[0], "image": [png(), png("red")]}])
    question = registry.load("benchmarks", "seed_bench")(path=str(tmp_path))[0]
    assert question.sample.messages[0].text.startswith("<image>\n<image>\nHow many?")
    assert len(question.sample.media["image"]) == 2


def test_egoschema_asks_what_has_a_public_answer(tmp_path: Path) -> None:
    options = {f"option {n}": f"C does {text}" for n, text in enumerate("vwxyz")}
    write_table(tmp_path / "questions.json", [{"q_uid": name, "question": "What?", **options} for name in "abc"])
    (tmp_path / "subset_answers.json").write_text(json.dumps({"b": 4}))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "b.mp4").write_bytes(b"clip")
    kind = registry.load("benchmarks", "egoschema")
    benchmark = kind(path=str(tmp_path))
    assert len(benchmark) == 1 and benchmark[0].reference == ("E", "C does z")
    assert benchmark[0].sample.media == {"video": (tmp_path / "videos" / "b.mp4",)}
    assert [one.name for one in benchmark.files] == ["questions.json", "subset_answers.json"]
    (tmp_path / "subset_answers.json").unlink()
    with pytest.raises(MmllmError, match=r"subset_answers\.json, which is missing"):
        kind(path=str(tmp_path))


def test_librispeech_is_read_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "test-other" / "1" / "2"
    folder.mkdir(parents=True)
    (folder / "1-2.trans.txt").write_text("1-2-0000 IT'S HE\n1-2-0001 TWO OF THEM\n")
    for number in range(2):
        (folder / f"1-2-000{number}.flac").write_bytes(b"fLaC")
    kind = registry.load("benchmarks", "librispeech")
    official, hub = kind(path=str(tmp_path), config="other"), opened("librispeech", tmp_path / "hub")
    for number in range(2):
        one, other = official[number], hub[number]
        assert (one.sample.name, one.text, one.reference) == (other.sample.name, other.text, other.reference)
    assert official[1].sample.media["audio"] == (folder / "1-2-0001.flac",)
    (folder / "1-2.trans.txt").write_text("1-2-0000\n")
    with pytest.raises(MmllmError, match=r"trans\.txt, line 1: it is no id and text"):
        kind(path=str(tmp_path), config="other")


# ---- scores of the whole


def said(benchmark: Benchmark, answers: Sequence[str]) -> list[Answered]:
    questions = [benchmark[number] for number in range(len(benchmark))]
    return [Answered(q, text, benchmark.graded(text, q)[0]) for q, text in zip(questions, answers, strict=True)]


def test_circular_needs_every_roll(tmp_path: Path) -> None:
    benchmark = opened("mmbench", tmp_path)
    found = summary(benchmark, said(benchmark, ["A", "A", "B"]))  # the roll of the first is wrong
    assert found["score"] == 0.5 and found["figures"] == {"vanilla": 1.0} and found["n"] == 3
    assert summary(benchmark, said(benchmark, ["A", "B", "B"]))["score"] == 1.0


def test_mme_adds_accuracy_and_pairs(tmp_path: Path) -> None:
    benchmark = opened("mme", tmp_path)
    found = summary(benchmark, said(benchmark, ["Yes", "No.", "yes", "Yes"]))  # two pictures, one wholly right
    assert found["score"] == 125.0
    assert found["figures"] == {"perception": 125.0, "cognition": 0, "accuracy": 0.75}


def test_pope_is_the_mean_of_f1_and_not_the_f1_of_all(tmp_path: Path) -> None:
    benchmark = opened("pope", tmp_path)
    found = summary(benchmark, said(benchmark, ["yes", "no", "yes", "yes"]))
    assert found["score"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["figures"] == pytest.approx(
        {"pooled_f1": 0.8, "precision": 2 / 3, "recall": 1.0, "accuracy": 0.75, "yes_ratio": 0.75}
    )
    never = summary(benchmark, said(benchmark, ["no"] * 4))
    assert never["score"] == 0.0 and never["figures"]["precision"] == 0.0
    assert benchmark.graded("a dog", benchmark[0]) == (0.0, False)
    official = registry.load("benchmarks", "pope")(path=str(tmp_path), variant="pope_official")
    assert official.graded("a dog", official[0]) == (1.0, True)


def test_hallusion_bench_counts_groups_that_are_right_in_all(tmp_path: Path) -> None:
    benchmark = opened("hallusion_bench", tmp_path)
    found = summary(benchmark, said(benchmark, ["no", "no", "no"]))
    # three groups of questions; of figures the 0 of VS is none, and the other has a wrong answer
    assert found["score"] == pytest.approx(2 / 3)
    assert found["figures"] == pytest.approx({"qacc": 2 / 3, "facc": 0.0})


def test_cv_bench_weighs_its_sources(tmp_path: Path) -> None:
    benchmark = opened("cv_bench", tmp_path)
    found = summary(benchmark, said(benchmark, ["B", "A", "B", "A"]))  # ADE20K 1, COCO 1/2, Omni3D 0
    assert found["score"] == pytest.approx((1 + 0.5) / 4)
    assert found["figures"] == {"mean_of_questions": 0.5}


def test_boxes_have_stricter_figures(tmp_path: Path) -> None:
    benchmark = opened("ref_l4", tmp_path)
    # of the left half in both: IoU 1 with the first, 0.5 with the second, which is half as high
    found = summary(benchmark, said(benchmark, ["[0,0,50,100]", "[0,0,50,100]"]))
    assert found["score"] == 1.0 and found["figures"]["acc@0.75"] == 0.5 and found["figures"]["acc@0.9"] == 0.5
    assert found["figures"]["macc"] == pytest.approx((1.0 + 9 * 0.5) / 10)


def test_word_errors_are_added_before_they_are_divided(tmp_path: Path) -> None:
    benchmark = opened("librispeech", tmp_path)
    answered = said(benchmark, ["It\u2019s he!", "two them all"])  # 0 of 2 words, 2 of 3
    assert score_of(benchmark, answered) == pytest.approx(2 / 5)
    assert [one.score for one in answered] == pytest.approx([1.0, 1 / 3])


def test_counts_have_the_squared_error_beside_exact_match(tmp_path: Path) -> None:
    folder = tmp_path / "gifs"
    folder.mkdir()
    (folder / "tumblr_a.gif").write_bytes(png()["bytes"])
    rows = [{"gif_name": "tumblr_a", "question": "How many ?", "answer": n, "vid_id": f"C{n}"} for n in (2, 5, 3)]
    write_table(tmp_path / "Test_count_question.csv", rows)
    benchmark = registry.load("benchmarks", "tgif_qa")(path=str(tmp_path), config="count")
    found = summary(benchmark, said(benchmark, ["2", "2 times", "often"]))
    assert found["score"] == pytest.approx(1 / 3) and found["figures"] == {"mse": 4.5, "mse_n": 2.0}


def test_captions_are_scored_against_the_whole_split(tmp_path: Path) -> None:
    benchmark = opened("coco_captions", tmp_path)
    found = summary(benchmark, said(benchmark, ["A man rides a horse.", "nothing"]))
    assert found["figures"].keys() == {"bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    # one picture of two: what is common is counted over both all the same
    alone = summary(benchmark, said(benchmark, ["A man rides a horse.", "nothing"])[:1])
    assert alone["score"] == pytest.approx(2 * found["score"]) and alone["score"] > 4.0


# ---- real files


def real(*names: str) -> Path:
    root = os.environ.get("MMLLM_TEST_DATA")
    if not root:
        pytest.skip("MMLLM_TEST_DATA is not set")
    return Path(root, "eval_oracles", *names)


def link_pictures(benchmark: Any, folder: Path, count: int) -> None:
    """Write a picture under the names that the first rows have."""
    for number in range(count):
        item = benchmark._items(number)[0]
        for path in benchmark._found("image", item["image"]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png()["bytes"])
    assert folder in path.parents


@pytest.mark.parametrize(
    ("name", "file", "n"),
    [
        ("ocrbench", "ocrbench/OCRBench.json", 1_000),
        ("pope", "pope/coco_pope_adversarial.json", 3_000),
        ("refcoco", "refcoco/refcoco_testA.json", 5_657),
    ],
)
def test_official_files_have_the_published_numbers_of_questions(tmp_path: Path, name: str, file: str, n: int) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(real(file), tmp_path / "a")
    path = tmp_path / "a" if name != "pope" else tmp_path / "a" / Path(file).name
    benchmark = registry.load("benchmarks", name)(path=str(path))
    assert len(benchmark) == n
    link_pictures(benchmark, tmp_path / "a", 3)
    questions = [benchmark[number] for number in range(3)]
    assert len({question.sample.name for question in questions}) == 3
    if name == "refcoco":
        box = questions[0].reference
        assert box == pytest.approx((3.24 / 640, 159.31 / 480, 159.64 / 640, 472.12 / 480))
        written = "[" + ", ".join(f"{100 * one:.1f}" for one in box) + "]"
        assert benchmark.graded(written, questions[0]) == (1.0, True)


def test_always_yes_on_real_pope_has_the_f1_of_its_balance() -> None:
    rows = [json.loads(line) for line in real("pope", "coco_pope_adversarial.json").read_text().splitlines()]
    pairs: list[tuple[str | None, str]] = [("yes", row["label"]) for row in rows]
    found = f1_of_yes(pairs)
    assert sum(row["label"] == "yes" for row in rows) == 1_500
    assert found == pytest.approx({"f1": 2 / 3, "precision": 0.5, "recall": 1, "accuracy": 0.5, "yes_ratio": 1})
