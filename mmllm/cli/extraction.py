"""The command that extracts fields from pictures of documents."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from mmllm.cli.arguments import Parsers, change_arguments, code_argument, command, run_path, trust
from mmllm.errors import MmllmError


def add(commands: Parsers) -> None:
    """Add the command."""
    extract = command(commands, "extract", _extract, "fields of document pictures as JSON that follows a schema")
    extract.add_argument("folder", type=Path, metavar="RUN")
    extract.add_argument("overrides", nargs="+", metavar="FILE | path=value", help="pictures or folders; eval, serve")
    extract.add_argument("--schema", type=Path, required=True, metavar="FILE", help="JSON Schema of an object")
    extract.add_argument("--examples", type=Path, metavar="PATH", help="solved documents; the most like one goes first")
    extract.add_argument("--ask", metavar="TEXT", help="the question, with {schema} where it is to stand")
    extract.add_argument("--text-layer", type=Path, metavar="DIR", help="texts with boxes, to find values again")
    extract.add_argument("--locate", metavar="TEXT", help="a question by which the run names the box of a {value}")
    extract.add_argument("--box-scale", type=float, default=1.0, metavar="N", help="boxes of --locate count up to N")
    extract.add_argument("--max-new-tokens", type=int, metavar="N", help="of an object (default: serve.max_new_tokens)")
    extract.add_argument("--batch", type=int, metavar="N", help="documents at once (default: eval.batch)")
    extract.add_argument("--out", type=Path, metavar="FILE", help="lines of JSON; goes on where it stopped")
    extract.add_argument("--score", type=Path, metavar="PATH", help="known fields of the documents: prints their F1")
    extract.add_argument("--variant", default="exact", help="of --score: exact, folded, edit")
    change_arguments(extract)
    code_argument(extract)


def _extract(arguments: argparse.Namespace) -> None:
    from mmllm.extraction.extract import ASK, Settings
    from mmllm.extraction.run import Truth, extract, files_of
    from mmllm.extraction.schema import read_schema
    from mmllm.generation.model import Model

    words: list[str] = arguments.overrides
    named = [word for word in words if "=" not in word or Path(word).exists()]
    files = files_of([Path(word) for word in named])
    run, schema = run_path(arguments), read_schema(arguments.schema)
    # before anything is answered: hours may lie between
    truth = None if arguments.score is None else Truth(arguments.score, files, arguments.variant)
    model = Model.open(run, None, None, [word for word in words if word not in named], trust(arguments))
    settings = Settings(
        schema=schema,
        ask=arguments.ask or ASK,
        limit=arguments.max_new_tokens or model.recipe.serve.max_new_tokens,
        examples=arguments.examples,
        text_layer=arguments.text_layer,
        locate=arguments.locate,
        box_scale=arguments.box_scale,
    )
    lines = extract(model, files, settings, batch=arguments.batch, out=arguments.out)
    if truth is not None:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in truth.score(lines).items())
        print(f"{figures} ({arguments.variant}), n {len(lines)}", file=sys.stderr)
    failed = Counter(line.error["code"] for line in lines if line.error is not None)
    if failed:
        found = ", ".join(f"{code} {n}" for code, n in sorted(failed.items()))
        raise MmllmError(f"{failed.total()} of {len(lines)} documents have an error, which their lines name: {found}.")
