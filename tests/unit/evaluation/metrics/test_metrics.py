"""Every metric against the published scorers' behaviour: each row of their tables of traps, and laws that must hold."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.boxes import box_hit, iou, parse_box
from mmllm.evaluation.metrics.text import anls, edit_distance, exact_match, relaxed_accuracy
from mmllm.evaluation.metrics.vqa import VARIANTS, Variant, normalise, vqa_accuracy

OFFICIAL, OLD, LMMS, MMF = VARIANTS


def mixed(answer: str, other: str = "something else") -> list[str]:
    """Ten annotators of whom five give this answer."""
    return [answer] * 5 + [other] * 5


# prediction, answers, and the values of vqa_official_2021, vqa_2017, vqa_lmms and textvqa_mmf (run on those scorers)
VQA_PROBES = [
    ("Yes", ["yes"] * 10, (0, 1, 1, 1)),
    ("yes.", ["yes"] * 10, (0, 1, 1, 1)),
    ("a dog", ["dog"] * 10, (0, 1, 1, 1)),
    ("red blue", mixed("red,blue"), (1, 1, 1, 0)),
    ("3.", mixed("3"), (1, 1, 1, 1)),
    ("", mixed("a"), (1, 0, 1, 1)),
    ("the", mixed("a"), (1, 0, 1, 1)),
    ("two", mixed("two"), (1, 0, 1, 1)),
    ("2", mixed("two"), (1, 0, 1, 1)),
    ("dog", mixed("the dog"), (1, 0, 1, 1)),
    ("dog", mixed("Dog"), (1, 0, 1, 1)),
    ("1000", mixed("1,000"), (1, 1, 1, 1)),
    ("1,000", mixed("1000"), (1, 1, 1, 1)),
    ("two", mixed("2"), (1, 1, 1, 1)),
    ("dont", mixed("don't"), (1, 1, 1, 1)),
    ("1.5", mixed("1.5"), (1, 1, 1, 1)),
    ("t-shirt", mixed("t shirt"), (1, 1, 1, 1)),
    ("t shirt", mixed("t-shirt"), (1, 1, 1, 1)),
    ("us", mixed("u.s."), (1, 1, 1, 1)),
    ("its", mixed("it's"), (0, 0, 0, 0)),
    ("5", mixed("$5"), (0, 0, 0, 0)),
    ("1030", mixed("10:30"), (0, 0, 0, 0)),
    ("11", mixed("eleven"), (0, 0, 0, 0)),
    ("a b", mixed("a b" + "." * 20), (1, 0, 1, 1)),
    ("a b", mixed("a b" + "." * 40), (0, 0, 0, 0)),
]


@pytest.mark.parametrize(("prediction", "answers", "wanted"), VQA_PROBES)
def test_vqa_accuracy_of_every_variant(prediction: str, answers: list[str], wanted: tuple[float, ...]) -> None:
    assert tuple(vqa_accuracy(prediction, answers, variant) for variant in VARIANTS) == pytest.approx(wanted)


@pytest.mark.parametrize(("matches", "wanted"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_vqa_accuracy_counts_the_other_annotators(matches: int, wanted: float) -> None:
    answers = ["cat"] * matches + [f"other {n}" for n in range(10 - matches)]
    for variant in VARIANTS:
        assert vqa_accuracy("cat", answers, variant) == pytest.approx(wanted)


def test_the_variants_are_really_different() -> None:
    values = {tuple(vqa_accuracy(p, a, variant) for variant in VARIANTS) for p, a, _ in VQA_PROBES}
    for one, two in itertools.combinations(range(4), 2):
        if {OFFICIAL, LMMS} != {VARIANTS[one], VARIANTS[two]}:
            assert any(row[one] != row[two] for row in values), (VARIANTS[one], VARIANTS[two])


def test_vqa_accuracy_refuses_an_unknown_variant_and_no_answers() -> None:
    unknown: Variant = "vqa_2018"  # type: ignore[assignment]
    with pytest.raises(MmllmError, match=r"vqa_2018.*vqa_official_2021"):
        vqa_accuracy("a", ["a"], unknown)
    with pytest.raises(MmllmError, match="at least one"):
        vqa_accuracy("a", [])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Two dogs!", "2 dogs"),
        ("the  a an", ""),
        ("I dont know.", "i don't know"),
        (".5", ".5"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("line\nbreak\ttab", "line break tab"),
        ("1,000; 2-3", "1000 23"),
        ("lets", "lets"),
        ("Im", "im"),
    ],
)
def test_normalisation(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("prediction", "answers", "wanted"),
    [
        ("Red.", ["red"], 1),
        ("two", ["2"], 1),
        ("a red star", ["red star"], 1),
        ("red", ["blue", "red"], 1),
        ("reddish", ["red"], 0),
        ("", ["red"], 0),
        ("", [""], 0),
        ("the", ["a"], 0),
        ("a", ["a"], 1),
        ("a1", ["a1"], 1),
    ],
)
def test_exact_match(prediction: str, answers: list[str], wanted: float) -> None:
    assert exact_match(prediction, answers) == wanted


# one text, the other, the value of the strict (paper, anls) and of the inclusive (anls_star) definition
ANLS_PROBES = [
    ("abcd", "abxy", 0.0, 0.5),
    ("", "", 1.0, 1.0),
    ("", "text", 0.0, 0.0),
    ("text", "", 0.0, 0.0),
    ("a  b", "a b", 1.0, 1.0),
    ("a\nb", "a b", 1.0, 1.0),
    ("ab cd", "ab     ce", 0.8, 0.8),
    ("  abc ", "abc", 1.0, 1.0),
    ("ABC", "abc", 1.0, 1.0),
    ("abcd", "abxyz", 0.0, 0.0),
]


@pytest.mark.parametrize(("one", "two", "strict", "inclusive"), ANLS_PROBES)
def test_anls(one: str, two: str, strict: float, inclusive: float) -> None:
    assert anls(one, [two]) == pytest.approx(strict)
    assert anls(one, [two], "inclusive") == pytest.approx(inclusive)


def test_anls_variants_differ_only_at_the_threshold_and_whitespace_does_not_matter() -> None:
    rng = random.Random(0)
    boundary = 0
    for _ in range(3000):
        one, two = ("".join(rng.choice("abc") for _ in range(rng.randint(0, 6))) for _ in range(2))
        strict, inclusive = anls(one, [two]), anls(one, [two], "inclusive")
        if strict != inclusive:
            assert (strict, inclusive) == (0.0, 0.5)
            boundary += 1
        spaced = " \n ".join(one)
        assert anls(f"  {spaced} ", [two]) == anls(" ".join(one), [two])
    assert boundary > 50


def test_anls_takes_the_nearest_answer_and_knows_its_variants() -> None:
    assert anls("The Coca", ["zzz", "the coca"]) == 1.0
    assert anls("anything", []) == 0.0
    with pytest.raises(MmllmError, match="strict"):
        anls("a", ["a"], "loose")  # type: ignore[arg-type]


def test_anls_on_the_files_of_the_anls_package() -> None:
    folder = _real("eval_oracles") / "anls"
    gold = json.loads((folder / "evaluation_evaluate_json_gold_label.json").read_text())["data"]
    said = {
        row["questionId"]: row["answer"]
        for row in json.loads((folder / "evaluation_evaluate_json_submission.json").read_text())
    }
    found = [anls(said[row["questionId"]], row["answers"]) for row in gold]
    # "The Coca" / "Coca Cola" and "Coca" are below the threshold, "CocaCola" misses one of nine characters
    assert found == pytest.approx([0.0, 8 / 9, 1.0, 0.0, 0.0])


def test_edit_distance_equals_the_definition() -> None:
    def slow(one: str, two: str) -> int:
        if not one or not two:
            return len(one) + len(two)
        return min(slow(one[1:], two) + 1, slow(one, two[1:]) + 1, slow(one[1:], two[1:]) + (one[0] != two[0]))

    rng = random.Random(1)
    for _ in range(200):
        one, two = ("".join(rng.choice("ab") for _ in range(rng.randint(0, 5))) for _ in range(2))
        assert edit_distance(one, two) == slow(one, two)


@pytest.mark.parametrize(
    ("prediction", "answer", "wanted"),
    [
        ("105", "100", 1), ("105.0001", "100", 0), ("95", "100", 1), ("94.9", "100", 0), ("2008", "2000", 1),
        ("0", "0.0", 0), ("0", "0", 1), ("5%", "0.05", 1), ("5%", "5", 0), ("1,000", "1000", 0), ("$5", "5", 0),
        ("1e3", "1000", 1), ("1_000", "1000", 1), ("\uff15", "5", 1), ("nan", "5", 0), ("5", "nan", 0),
        ("inf", "5", 0), ("-5", "-5.2", 1), ("yes", "yes.", 0), ("", "", 1), ("5 %", "5%", 1), ("Yes", "yes", 1),
        ("[1, 2]", "[1, 2]", 1), ("[1, 2]", "[2, 1]", 0),
    ],
)  # fmt: skip
def test_relaxed_accuracy(prediction: str, answer: str, wanted: float) -> None:
    assert relaxed_accuracy(prediction, answer) == wanted


@pytest.mark.parametrize(
    ("text", "scale", "wanted"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", 1, (0.1, 0.2, 0.3, 0.4)),
        ("[.1,.2,.3,.4]", 1, (0.1, 0.2, 0.3, 0.4)),
        ("[10,20,30,40]", 100, (0.1, 0.2, 0.3, 0.4)),
        ("<box>(100,200),(300,400)</box>", 1000, (0.1, 0.2, 0.3, 0.4)),
        ("(100, 200) to (300, 400)", 1000, (0.1, 0.2, 0.3, 0.4)),
        ("{<10><20><30><40>}", 100, (0.1, 0.2, 0.3, 0.4)),
        ('{"bbox_2d": [64, 96, 192, 192], "label": "cat"}', (640, 480), (0.1, 0.2, 0.3, 0.4)),
        ("10 20 30 40", 100, (0.1, 0.2, 0.3, 0.4)),
        ("the 1 box: x1=10, y1=20, x2=30, y2=40.", 100, None),
        ("it is at [10,20,30,40] or [1,2,3,4]", 100, (0.1, 0.2, 0.3, 0.4)),
        ("[[10,20,30,40]]", 100, (0.1, 0.2, 0.3, 0.4)),
        ("[10,20,30]", 100, None),
        ("[10,20,30,40,50]", 100, None),
        ("", 1, None),
        ("on the left", 1, None),
        ("[-10,20,30,40]", 100, (-0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_boxes_are_read_in_several_forms(text: str, scale: float, wanted: tuple[float, ...] | None) -> None:
    found = parse_box(text, scale)
    assert found is None if wanted is None else found == pytest.approx(wanted)


def test_a_box_scale_must_be_positive() -> None:
    with pytest.raises(MmllmError, match="positive"):
        parse_box("[1,2,3,4]", 0)


def test_degenerate_boxes_overlap_with_nothing_and_divide_by_nothing() -> None:
    whole, point, line, inverted = (0, 0, 1, 1), (0.5, 0.5, 0.5, 0.5), (0, 0.5, 1, 0.5), (1, 1, 0, 0)
    for box in (point, line, inverted):
        assert iou(box, whole) == iou(whole, box) == iou(box, box) == 0.0
    assert iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0.0
    assert iou(whole, whole) == 1.0


def test_iou_equals_torchvision() -> None:
    import torch
    from torchvision.ops import box_iou

    corners = torch.rand(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
    wanted = box_iou(boxes, boxes)
    rows = [tuple(row) for row in boxes.tolist()]
    found = torch.tensor([[iou(one, two) for two in rows] for one in rows], dtype=torch.float64)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_a_hit_flips_exactly_at_half() -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    assert box_hit((0.0, 0.0, 1.0, 0.5), whole) == 1.0
    assert box_hit((0.0, 0.0, 1.0, 0.499), whole) == 0.0
    assert box_hit(None, whole) == 0.0


def test_real_refcoco_boxes_come_back_from_text() -> None:
    rows = json.loads((_real("eval_oracles") / "refcoco" / "refcoco_testA.json").read_text())
    assert len(rows) > 1000
    for row in rows:
        x, y, width, height = row["bbox"]
        box = (x / row["width"], y / row["height"], (x + width) / row["width"], (y + height) / row["height"])
        text = ",".join(f"{1000 * number:.1f}" for number in box)
        found = parse_box(f"[{text}]", 1000)
        assert found is not None
        assert iou(found, box) > 0.97
        shifted = (box[0] + (box[2] - box[0]) * 0.34, box[1], box[2] + (box[2] - box[0]) * 0.34, box[3])
        assert box_hit(shifted, box) == 0.0


def _real(name: str) -> Path:
    root = os.environ.get("MMLLM_TEST_DATA")
    if not root:
        pytest.skip("MMLLM_TEST_DATA is not set")
    return Path(root) / name
