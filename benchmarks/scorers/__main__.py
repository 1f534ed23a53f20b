"""Our scores beside those of the peers' own software, on the same drawn predictions.

    python -m benchmarks.scorers run [--peers FOLDER] [--sources FOLDER] [--only peers|sources]
                                          [--pairs 2000] [--seed 0]
    python -m benchmarks.scorers table        writes the table of docs/scorers.md from the figures

``--peers``: a folder that ``pip install --no-deps --target FOLDER lmms-eval pycocoevalcap jiwer anls anls_star ...``
filled, where these are not installed beside this package (captions need Java). ``--sources``: a folder with one file a
repository, at its path there: VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py and so on (``official.py``). Figures
of what is not there this time stay, if they are of as many pairs and the same seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scorers import official, peers
from benchmarks.scorers.comparison import UNDECIDED, compare

KEPT = Path("benchmarks/scorers/results.json")
DOCS = Path("docs/scorers.md")
START, END = "<!-- scorers: written by python -m benchmarks.scorers table -->", "<!-- end of scorers -->"


def main() -> int:
    """Run or write; 1 where a difference has no reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorers", description=__doc__)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--peers", type=Path, help="folder of the peers' packages")
    parser.add_argument("--sources", type=Path, help="folder of the authors' files")
    parser.add_argument("--only", choices=("peers", "sources"), help="the figures of the others stay")
    parser.add_argument("--pairs", type=int, default=2000, help="cases of each comparison (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "table":
        write()
        return 0
    if arguments.peers is not None:
        sys.path.append(str(arguments.peers))
    every = [] if arguments.only == "sources" else peers.comparisons()
    if arguments.sources is not None and arguments.only != "peers":
        every += official.comparisons(arguments.sources)
    outcomes = []
    for one in every:
        found = compare(one, arguments.pairs, arguments.seed)
        outcomes.append(asdict(found))
        print(f"{found.metric} | {found.peer} | {found.equal} of {found.n} | {found.different}", flush=True)
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    outcomes = [*_not_run(outcomes, arguments.pairs, arguments.seed), *outcomes]
    kept = {"pairs": arguments.pairs, "seed": arguments.seed, "machine": machine, "outcomes": outcomes}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(UNDECIDED in one["different"] for one in outcomes))


def _not_run(outcomes: list[dict[str, Any]], pairs: int, seed: int) -> list[dict[str, Any]]:
    """Kept outcomes, of as many pairs and the same seed, of comparisons whose peers were not there this time."""
    before = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    if (before.get("pairs"), before.get("seed")) != (pairs, seed):
        return []
    run = {(one["metric"], one["peer"]) for one in outcomes}
    return [one for one in before["outcomes"] if (one["metric"], one["peer"]) not in run]


def write() -> None:
    """Put the table into the page."""
    page = DOCS.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, behind = rest.partition(END)
    DOCS.write_text(f"{before}{START}\n\n{table(json.loads(KEPT.read_text()))}\n\n{END}{behind}", encoding="utf-8")


def table(kept: dict[str, Any]) -> str:
    """A row a comparison, and below it what its differences are."""
    lines = [
        f"{kept['pairs']:,} drawn pairs each, seed {kept['seed']}.",
        "",
        "| metric | beside | equal | where they differ |",
        "|---|---|---|---|",
    ]
    for one in kept["outcomes"]:
        why = "; ".join(f"{count:,}: {reason}" for reason, count in sorted(one["different"].items())) or "nowhere"
        lines.append(f"| {one['metric']} | {one['peer']} | {one['equal']:,} of {one['n']:,} | {why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
