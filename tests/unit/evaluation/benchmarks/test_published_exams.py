"""MMMU, MMMU-Pro and MathVista: where pictures stand, and answers that are read without a judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.testing.tiny.published_benchmarks import opened, tables, write_table


def test_pictures_stand_where_mmmu_names_them(tmp_path: Path) -> None:
    benchmark = opened("mmmu", tmp_path)
    (rows,) = tables("mmmu").values()
    first, second, third = (benchmark[number] for number in range(3))
    shown = [one.load() for one in first.sample.media["image"]]
    assert shown == [rows[0][f"image_{number}"]["bytes"] for number in (1, 2, 3)]
    # one that nothing names stands in front
    assert second.sample.messages[0].text.startswith("<image>\nWhich note is it?\nA. c\nB. d\n\nAnswer with")
    assert (
        third.sample.messages[0].text
        == "How long is x in <image>?\n\n" + "Answer the question using a single word or phrase."
    )
    assert third.reference == ("8.5", "8 1/2") and third.options == () and third.kind == "Science: Math"
    assert [benchmark.graded(said, third)[0] for said in ("so x is 8.50.", "about 8 1/2 m", "x = 8.4")] == [1, 1, 0]
    assert benchmark.graded("(B)", second) == (1.0, True) and benchmark.graded("perhaps", second) == (0.0, False)
    in_front = registry.load("benchmarks", "mmmu")(path=str(tmp_path), prompt="<image>\n{question}")
    assert (
        in_front[0].sample.messages[0].text
        == "<image>\n" * 3 + "<image 1> Which is like <image 2>?\nA. <image 3>\nB. 5 %"
    )
    write_table(tmp_path / "data/validation-00000-of-00001.parquet", [rows[0] | {"image_2": None}, *rows[1:]])
    with pytest.raises(MmllmError, match="it shows <image 2>, and its image_2 is empty"):
        registry.load("benchmarks", "mmmu")(path=str(tmp_path))


def test_questions_of_mmmu_pro_may_stand_in_their_pictures(tmp_path: Path) -> None:
    opened("mmmu_pro", tmp_path)
    vision = registry.load("benchmarks", "mmmu_pro")(path=str(tmp_path), config="vision")
    assert vision[1].sample.messages[0].text.startswith("<image>\nAnswer with the option letter from the given choices")
    assert vision.graded("It is late.\nAnswer: C", vision[1]) == (1.0, True)


def test_mathvista_reads_values_and_guesses_nothing(tmp_path: Path) -> None:
    benchmark = opened("mathvista", tmp_path)
    choice, integer, decimal, numbers = (benchmark[number] for number in range(4))
    assert [benchmark.graded(said, choice)[0] for said in ("B.", "13 cm", "(B) 13 cm", "", "13")] == [1, 1, 1, 0, 0]
    assert benchmark.graded("", choice) == (0.0, False) == benchmark.graded("I see none", integer)
    assert benchmark.graded("3 more than 1,200 is \\boxed{1203}, not 7", integer) == (1.0, True)
    assert benchmark.graded("The answer is 1.52 m, of 9", decimal) == (1.0, True)
    assert benchmark.graded("They are [0, 9] and [1, 2].", numbers) == (1.0, True)
    assert benchmark.graded("[1.0, 2]", numbers) == (0.0, True)  # compared as texts, as the authors do
