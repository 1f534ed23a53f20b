"""The command that states what of a run's language model is unchanged: certify."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmllm.cli.arguments import Parsers, change_arguments, code_argument, command, run_path, trust
from mmllm.errors import MmllmError


def add(commands: Parsers) -> None:
    """Add the command."""
    text = "state which parts of a run change text without media, compared with its bare language model"
    parser = command(commands, "certify", _certify, text)
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: RUN/certificate.json)")
    parser.add_argument("--check", type=Path, metavar="FILE", help="make it again and say where FILE first differs")
    parser.add_argument("--texts", type=int, metavar="N", help="drawn texts beside the fixed ones (default: 8)")
    parser.add_argument("--seed", type=int, help="of the drawn texts (default: 0)")
    change_arguments(parser)
    code_argument(parser)


def _certify(arguments: argparse.Namespace) -> None:
    from mmllm.certificates.making import check_certificate, write_certificate

    run = run_path(arguments)
    if arguments.check is None:
        file = arguments.out or run / "certificate.json"
        words = {"texts": arguments.texts, "seed": arguments.seed}
        given = {name: value for name, value in words.items() if value is not None}
        write_certificate(run, file, trust=trust(arguments), say=print, **given)
        print(f"certified: {file}")
        return
    for word in ("out", "texts", "seed"):
        if getattr(arguments, word) is not None:
            raise MmllmError(f"--check makes the certificate as FILE says it was made; leave --{word} out.")
    for sentence in check_certificate(run, arguments.check, trust=trust(arguments)):
        print(sentence)
    print(f"the same: {arguments.check}")
