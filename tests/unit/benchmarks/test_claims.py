"""The claims harness: what its tasks say is true, rates and starts, what is run again, and the rule of its verdicts."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks.claims import experiment as experiments
from benchmarks.claims import lessons, table
from benchmarks.claims.data import DATA, TEST, write_task
from benchmarks.claims.experiment import TABLE, Arm, Check, Experiment, better, larger_gap, not_worse, recipe_of
from benchmarks.claims.measures import LossAt, TextKept
from benchmarks.claims.plan import Plan
from benchmarks.claims.single import Job, data_of, learned, result_of, run
from tests.support.places import ROOT

SHORT = ("stages.learn.steps=2", "stages.learn.batch=2")
EXPERIMENT = Experiment(
    title="tiny",
    claim="two ranks",
    arms={
        "first": Arm("text_lora", SHORT, rates=(1e-2,)),
        "second": Arm("text_lora", (*SHORT, "connectors.lora.rank=4"), start=("first",)),
    },
    tasks=("text_domains",),
    metrics=("text_domains", "loss@2"),
    tune=("text_domains",),
    rates=(1e-3, 2e-3),
    comparisons=(better("first", "second", "loss@2", lower=True),),
    measures=(LossAt((1, 2), window=1),),
    seeds=(0,),
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the repository's recipes and miniature parts, where runs are made."""
    for name in ("benchmarks", "recipes", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TABLE, "tiny", "tests.unit.benchmarks.test_claims")
    return tmp_path


# ---- tasks


@pytest.mark.parametrize("task", lessons.MAKERS)
def test_a_task_is_the_same_each_time_and_its_test_questions_stand_alone(task: str, tmp_path: Path) -> None:
    folders = [write_task(task, tmp_path / name, train=12, test=6) for name in "ab"]
    one, two = (json.loads((folder / "complete").read_text()) for folder in folders)
    assert one == two
    rows = [json.loads(line) for line in (folders[0] / "test" / f"{task}.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["answers"][0] and row["kind"] for row in rows)
    assert all((folders[0] / "test" / row["image"]).is_file() == bool(row["image"]) for row in rows)
    talks = [json.loads(line) for line in (folders[0] / "train.jsonl").read_text().splitlines()]
    assert len(talks) == 12 and all(talk["messages"][-1]["role"] == "assistant" for talk in talks)
    assert all((folders[0] / path).is_file() for talk in talks for path in talk.get("image", []))


def test_another_size_writes_a_task_anew(tmp_path: Path) -> None:
    write_task("text", tmp_path, train=3, test=2)
    write_task("text", tmp_path, train=4, test=2)
    assert len((tmp_path / "text" / "train.jsonl").read_text().splitlines()) == 4


def test_domains_conflict_and_only_the_description_tells_them_apart() -> None:
    answers: dict[str, dict[str, str]] = {}
    for number in range(600):
        lesson = lessons.domains(Random(number), held_out=False)
        for ask in lesson.asks:
            assert answers.setdefault(ask.question, {}).setdefault(lesson.group, ask.answer) == ask.answer
        first = lesson.before.split()[0]
        domain = "sounds" if re.fullmatch(r"t\d", first) else "graphs" if re.fullmatch(r"n\d", first) else "people"
        assert domain == lesson.group
    assert len(answers) == len(lessons.CODED)
    assert all(len(set(found.values())) == len(lessons.SHIFTS) for found in answers.values())


def test_text_tasks_are_those_of_their_names() -> None:
    for number in range(40):
        for ask in lessons.tasks(Random(number), held_out=False).asks:
            name, *given = ask.question.rstrip("?").split()
            said = ask.answer.split()
            truth = {
                "physics": [*given[1:], given[0]],
                "law": [str(int(given[0]) + 1)] if name == "law" else [],
                "art": [word for word in given for _ in range(2)],
                "sport": [given[-1], given[0]],
            }
            assert said == truth[name] if name in truth else said[0] != given[0]


def test_composite_prompts_hold_two_tasks_and_both_answers() -> None:
    ask = lessons.composite(Random(3), held_out=True).asks[0]
    one, two = ask.question.split("? ")
    assert one.split()[0] != two.split()[0] and ask.answer.count(",") == 1


# ---- experiments and recipes


@pytest.mark.slow
def test_every_experiment_is_whole() -> None:
    assert experiments.written(), "no experiment is there"
    for name in experiments.written():
        found = experiments.load(name)
        assert len(found.seeds) >= 3 and found.pilot not in found.seeds
        for key, arm in found.arms.items():
            assert arm.rate_of is None or arm.rate_of in found.arms
            other, _, own = arm.same_as.rpartition("/")
            assert not own or own in experiments.load(other).arms
            rates = arm.rates or found.rates
            assert len(rates) in (1, 3), f"{name}/{key}"
            recipe = recipe_of(arm, seed=5, rate=1e-3)
            assert recipe.seed == 5 and set(data_of(recipe, found.tasks)) <= set(lessons.MAKERS)


def test_an_arm_that_is_the_same_as_another_has_its_runs() -> None:
    job = Plan().job("llama_adapter_image", "tokens", 0, 1e-3)
    assert job == Plan().job("infmllm", "pool", 0, 1e-3) != Plan().job("llama_adapter_image", "global", 0, 1e-3)


def test_an_arm_may_choose_its_rate_by_other_metrics() -> None:
    plan = Plan()
    for arm in ("layer-wise", "second task"):  # the second starts from the first, with its best rate
        for rate in experiments.load("pumgpt").rates:
            metrics = {"where": rate, "presence": 0.0, "attributes": -rate}
            plan.done[plan.job("pumgpt", arm, 99, rate)] = {"metrics": metrics}
    rates = experiments.load("pumgpt").rates
    assert plan.rate("pumgpt", "layer-wise") == max(rates) and plan.rate("pumgpt", "second task") == min(rates)


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"there is no experiment infmlm; known: .*infmllm"):
        experiments.load("infmlm")


def test_a_rate_goes_to_the_highest_peak_and_the_others_keep_their_ratio() -> None:
    arm = Arm("demo", ("stages.instruct.train.connectors.image=1.0e-3",), tune=("instruct",))
    recipe = recipe_of(arm, seed=0, rate=2e-2)
    assert recipe.stages["instruct"].train == pytest.approx({"connectors.image": 5e-3, "connectors.lora": 2e-2})
    assert recipe.stages["align"].train == {"connectors.image": 1e-2}
    assert recipe.stages["align"].keep == 1


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match=r"there is no recipe nowhere: neither benchmarks/claims/recipes/nowhere.yaml"):
        recipe_of(Arm("nowhere"), 0, 1e-3)


# ---- verdicts


@pytest.mark.parametrize(
    ("differences", "margin", "said"),
    [
        ((0.3, 0.32, 0.28), 0.0, "holds"),
        ((-0.3, -0.32, -0.28), 0.0, "does not hold"),
        ((0.3, -0.3, 0.1), 0.0, "undecided"),
        ((0.2, 0.2, 0.2), 0.0, "holds"),
        ((-0.2, -0.2, -0.2), 0.0, "does not hold"),
        ((0.0, 0.0, 0.0), 0.0, "undecided"),
        ((-0.01, -0.012, -0.008), 0.02, "holds"),
        ((-0.03, -0.032, -0.028), 0.02, "does not hold"),
        ((0.3, math.nan, 0.3), 0.0, "undecided"),
        ((0.3,), 0.0, "undecided"),
    ],
)
def test_a_claim_holds_above_two_standard_errors(differences: tuple[float, ...], margin: float, said: str) -> None:
    assert table.verdict(differences, margin)[0] == said


def test_differences_are_signed_so_that_above_zero_speaks_for_the_claim() -> None:
    arms = {"a": {"x": 0.9, "y": 0.5, "loss": 1.0}, "b": {"x": 0.4, "y": 0.4, "loss": 1.5}}
    assert better("a", "b", "x").value(arms) == pytest.approx(0.5)
    assert better("a", "b", "loss", lower=True).value(arms) == pytest.approx(0.5)
    assert larger_gap("a", "b", "x", "y").value(arms) == pytest.approx(0.4)
    assert not_worse("b", "a", "y", 0.2).margin == 0.2


def test_a_diverged_run_leaves_a_comparison_open_and_a_wrong_name_is_an_error() -> None:
    one = better("a", "b", "x")
    assert math.isnan(table._value(one, {"a": {"x": 1.0}, "b": {}}))
    with pytest.raises(KeyError):
        table._value(one, {"a": {"x": 1.0}, "b": {"z": 1.0}})
    assert table._value(Check("so", lambda arms: arms["a"]["x"] == 1.0), {"a": {"x": 1.0}}) == 1.0


# ---- runs


@pytest.mark.slow
def test_runs_tune_start_from_each_other_and_are_not_made_twice(workplace: Path) -> None:
    plan, made = Plan(), []
    while todo := plan.todo("tiny"):
        assert all(start_is_done(job) for job in todo)
        made.append(todo[0])
        run(todo[0])
    firsts = [job.seed for job in made if job.arm == "first"]
    assert sorted(firsts) == [0, 99], "the base is run for the seed and for the pilot"
    assert [job.rate for job in made if job.arm == "second" and job.seed == 99] == [1e-3, 2e-3]
    assert len(made) == 2 + 2 + 1 and Plan().todo("tiny") == []
    base, second = plan.job("tiny", "first", 0), plan.job("tiny", "second", 0)
    result = result_of(second)
    assert result is not None and result["loaded"] == len(learned(base.folder)) > 0
    assert result["steps"] == {"learn": 2} and result["trainable"] > 0
    assert set(result["metrics"]) >= {"text_domains", "text_domains.sounds", "loss@1", "loss@2"}
    # the base learned something, so what starts from it has another loss in its first step than a fresh one
    fresh = result_of(base)
    assert fresh is not None and fresh["metrics"]["loss@1"] != result["metrics"]["loss@1"]
    table.write(["tiny"], out=workplace / "RESULTS.md")
    text = (workplace / "RESULTS.md").read_text()
    assert "## 1. tiny" in text and re.search(r"\| first < second in loss@2 \| [+-]\d.* \| 1 \| \*undecided\* \|", text)
    assert f"{TEST} held-out" in text
    # another word in the recipe: it has to be run again, and so has what starts from it
    other = Job("tiny", "first", 0, 1e-2, more=("stages.learn.steps=3",))
    assert result_of(other) is None and result_of(made[0]) is not None
    (DATA / "text_domains" / "complete").write_text(json.dumps({"made": {}, "sha256": "other"}))
    assert result_of(second) is None


def start_is_done(job: Job) -> bool:
    """Whether everything a job starts from has a result."""
    return all((Path(start) / "result.json").is_file() for start in job.starts)


@pytest.mark.slow
def test_text_is_found_identical_exactly_where_nothing_changed(workplace: Path) -> None:
    from benchmarks.claims.finished import Finished
    from mmllm.model.build import build
    from mmllm.model.trainable import trainable_state

    recipe = recipe_of(EXPERIMENT.arms["first"], 0, 1e-2)
    model = build(recipe, "cpu")
    finished = Finished(recipe, workplace, model)
    before = TextKept(n=4)(finished)
    assert before["text_identical"] == 1.0 and before["text_ppl"] == before["text_ppl_base"] < 2.0
    with torch.no_grad():
        for tensor in trainable_state(model).values():
            tensor.add_(0.05)
    after = TextKept(n=4)(finished)
    assert after["text_identical"] == 0.0 and after["text_ppl"] > before["text_ppl"]


def test_a_section_is_put_among_others_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "section", lambda plan, number, name: f"## {number}. new {name}")
    monkeypatch.setattr(Plan, "todo", lambda self, name: [])
    page = tmp_path / "RESULTS.md"
    page.write_text("# Claims\n\n## 1. one\n\nold\n\n## 2. two\n\nold\n\n## 3. three\n\nold\n")
    second, last = list(TABLE)[1], "adaptvision"
    table.put([second, last], out=page)
    number = table.number_of(last)
    assert page.read_text() == (
        f"# Claims\n\n## 1. one\n\nold\n\n## 2. new {second}\n\n## 3. three\n\nold\n\n## {number}. new {last}\n"
    )
    monkeypatch.setattr(Plan, "todo", lambda self, name: [1])
    with pytest.raises(SystemExit, match="adaptvision is not finished: at least 1 runs to make"):
        table.put([last], out=page)
