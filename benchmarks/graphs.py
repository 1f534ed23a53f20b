"""Node classification by a frozen LM that answers in words: with a graph network against the same without edges.

``python -m benchmarks.graphs run [--data FOLDER] [--sets cora arxiv] [--seeds 1 2 3 4 5]`` trains and evaluates what is
missing; FOLDER (default: the environment's MMLLM_TEST_DATA) holds ``planetoid`` and ``arxiv2023_tag``.
``python -m benchmarks.graphs table`` writes benchmarks/GRAPHS.md from the runs' own ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.demo import machine

RUNS = Path("runs/graphs")
RESULTS = Path("benchmarks/GRAPHS.md")
RECIPE = Path("recipes/mini/cora.yaml")
ARMS = {"text only": "none", "GraphSAGE": "sage"}
"""Arm -> ``gnn`` of the connector; everything else is the same, the number of weights too."""
WIDTH = 128
"""Of arXiv's node states."""


@dataclass(frozen=True)
class Set:
    """A data set and what is changed in the recipe for it."""

    title: str
    source: str
    """Name in the registry."""
    folder: str
    """Below --data."""
    shares: tuple[float, float, float]
    states: str
    """What a node's state is, for the table."""
    pilots: str = ""
    """What was tried before the settings were fixed, for the table."""
    overrides: tuple[str, ...] = ()


SETS = {
    "cora": Set(
        "Cora",
        "planetoid",
        "planetoid",
        (0.6, 0.2, 0.2),
        "bag of words (1433), no text",
        "Pilots on split 0, which is not in the table: GraphSAGE 0.865 after 300 steps, 0.875 after 150, text only "
        "0.708 after 150 (test nodes); text only 0.747 after 150, 0.738 after 450 (validation nodes); no rate tuned.",
    ),
    "arxiv": Set(
        "arXiv 2023",
        "text_attributed_graph",
        "arxiv2023_tag",
        (0.8, 0.15, 0.05),
        f"TF-IDF of the title, {WIDTH} dimensions by SVD over all titles",
        overrides=(f"encoders.graph.width={WIDTH}", "connectors.graph.dropout=0.2"),
    ),
}


def overrides(name: str, arm: str, seed: int, data: Path) -> list[str]:
    """What is changed in the recipe for one run; data and evaluation get the same split."""
    one = SETS[name]
    words: dict[str, Any] = {"path": str(data / one.folder), "graph": str(RUNS / "data" / name)}
    words |= {"seed": seed, "shares": list(one.shares), "question": "what is the topic of n1?", "words": answers(name)}
    asked = {"node_classification": {"source": one.source, **words}}
    return [
        f"data.nodes={json.dumps({'type': one.source, **words})}",
        f"eval.benchmarks={json.dumps(asked)}",
        f"seed={seed}",
        f"connectors.graph.gnn={ARMS[arm]}",
        *one.overrides,
    ]


def answers(name: str) -> dict[str, str]:
    """Class -> one word of the miniature LM, which knows no others."""
    from mmllm.datasets.planetoid import CLASSES
    from mmllm.miniature.world.words import CITIES, ITEMS, NAMES, TOPICS

    classes = CLASSES["cora"] if name == "cora" else ARXIV.split()
    return dict(zip(classes, (*TOPICS, *ITEMS, *NAMES, *CITIES), strict=False))


ARXIV = (
    "cs.LG cs.CV cs.CL cs.AI cs.RO cs.IT cs.CR cs.NA cs.IR cs.DS cs.NE cs.SI cs.SE cs.GT cs.CY cs.DC cs.NI cs.SD cs.SY "
    "cs.HC cs.LO cs.DB cs.MA cs.CC cs.PL cs.GR cs.CE cs.SC cs.ET cs.MM cs.DL cs.CG cs.DM cs.AR cs.FL cs.MS cs.PF cs.OH "
    "cs.OS"
)
"""Its 39 classes, the largest first."""


def write_states(name: str, data: Path) -> None:
    """Node states of arXiv's titles beside its graph: no label has a part in them."""
    import numpy
    from safetensors.numpy import save_file
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from mmllm.datasets.text_attributed_graph import TextAttributedGraph

    folder = RUNS / "data" / name
    if (folder / "states.safetensors").is_file():
        return
    TextAttributedGraph(str(data / SETS[name].folder), graph=str(folder))
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").split("\n") if line]
    counts = TfidfVectorizer(sublinear_tf=True, min_df=3, stop_words="english").fit_transform(texts)
    states = TruncatedSVD(WIDTH, random_state=0).fit_transform(counts)
    save_file({"states": states.astype(numpy.float32)}, folder / "states.safetensors")


def run(names: Sequence[str], seeds: Sequence[int], data: Path) -> None:
    """Train and evaluate every run that has no results yet; a killed command continues where it was."""
    from mmllm.evaluation.run import evaluate
    from mmllm.recipe.load import load_recipe
    from mmllm.training.run import train

    for name in names:
        if not (data / SETS[name].folder).is_dir():
            raise SystemExit(f"there is no {data / SETS[name].folder}; say with --data where {SETS[name].title} is")
        if name == "arxiv":
            write_states(name, data)
        for seed in seeds:
            for arm, gnn in ARMS.items():
                out = RUNS / f"{name}-{gnn}-seed{seed}"
                if (out / "seconds.json").is_file():
                    continue
                recipe = load_recipe(RECIPE, overrides(name, arm, seed, data))
                clock = [time.monotonic(), time.process_time()]
                train(recipe, out)
                clock.append(time.monotonic())
                evaluate(out)
                clock += [time.monotonic(), time.process_time()]
                used = {"train": clock[2] - clock[0], "eval": clock[3] - clock[2], "processor": clock[4] - clock[1]}
                (out / "seconds.json").write_text(json.dumps({**used, "machine": machine()}))


def scores(name: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm -> seed -> what the run reached and how long it took; seeds that both arms have."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm, gnn in ARMS.items():
        found[arm] = {}
        for file in sorted(RUNS.glob(f"{name}-{gnn}-seed*/seconds.json")):
            row = json.loads((file.parent / "results.json").read_text())["benchmarks"]["node_classification"]
            found[arm][int(file.parent.name.rpartition("seed")[2])] = {**row, **json.loads(file.read_text())}
    both = set.intersection(*(set(rows) for rows in found.values()))
    return {arm: {seed: rows[seed] for seed in sorted(both)} for arm, rows in found.items()}


def section(name: str) -> str:
    """Markdown of one data set; empty where nothing was run."""
    found = scores(name)
    seeds = list(found["text only"])
    if not seeds:
        return ""
    shares = "/".join(f"{100 * share:g}" for share in SETS[name].shares)
    lines = [
        f"## {SETS[name].title}",
        "",
        f"Node states: {SETS[name].states}. Splits {shares} (train, validation, test) drawn by the seed; "
        f"{found['text only'][seeds[0]]['n']} test nodes each. {SETS[name].pilots}",
        "",
        f"| arm | mean accuracy | {' | '.join(f'split {seed}' for seed in seeds)} | unparsed "
        "| minutes (train, eval; of one processor) |",
        "|---|---|" + "---|" * (len(seeds) + 2),
    ]
    for arm, rows in found.items():
        own = [rows[seed]["score"] for seed in seeds]
        minutes = (mean(rows[seed][word] for seed in seeds) / 60 for word in ("train", "eval", "processor"))
        lines.append(
            f"| {arm} | {mean(own):.3f} | {' | '.join(f'{score:.3f}' for score in own)} "
            f"| {sum(rows[seed]['unparsed'] for seed in seeds)} | {', '.join(f'{one:.1f}' for one in minutes)} |"
        )
    gain = [100 * (found["GraphSAGE"][seed]["score"] - found["text only"][seed]["score"]) for seed in seeds]
    error = stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
    lines += [
        "",
        f"GraphSAGE - text only: {mean(gain):.1f} points, standard error {error:.1f} over {len(gain)} splits.",
        "",
    ]
    return "\n".join(lines)


def table() -> str:
    """The whole of GRAPHS.md."""
    head = (
        "# Classes of nodes, answered in words\n\n"
        "Written by `python -m benchmarks.graphs table` from runs of `python -m benchmarks.graphs run`; do not edit.\n"
        "The frozen miniature LM is shown one token for the node and answers the class as one word of its own; the\n"
        f"connector (`graph_adapter`) and LoRA learn ({RECIPE}). The arms differ in nothing but `gnn`: the network\n"
        "mixes a node with its neighbours, or leaves each node alone with the same weights. Accuracy is exact match\n"
        "as `mmllm eval` scores it. Minutes are of one thread beside other work on the same cores.\n\n"
    )
    return head + "\n".join(filter(None, map(section, SETS)))


def main(argv: Sequence[str] | None = None) -> None:
    """``run`` or ``table``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=__doc__)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MMLLM_TEST_DATA", "data")))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    args = parser.parse_args(argv)
    if args.command == "run":
        run(args.sets, args.seeds, args.data)
    RESULTS.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
