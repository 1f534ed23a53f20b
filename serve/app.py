"""ASGI entry for a process manager of your own: ``MMLLM_RUN=runs/demo uvicorn --factory serve.app:app``.

``mmllm serve RUN`` is the same application with the address from the recipe; use this one where an ASGI server's own
options are wanted (TLS, a Unix socket, a root path, a log configuration). README.md beside this file has examples.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fastapi import FastAPI

from mmllm.errors import MmllmError
from mmllm.serving.app import load_app

RUN = "MMLLM_RUN"
"""Environment variable that names the run folder."""


def app() -> FastAPI:
    """The application around the last checkpoint of the run that ``MMLLM_RUN`` names; one sentence and exit 2 if none.

    Each call loads the model anew, so each worker process of the ASGI server holds one.
    """
    run = os.environ.get(RUN)
    try:
        if not run:
            raise MmllmError(f"{RUN} is not set; set it to a run folder, e.g. {RUN}=runs/demo")
        return load_app(Path(run))[1]
    except MmllmError as error:
        print(f"mmllm: {error}", file=sys.stderr)
        # exit 2, as `mmllm serve`: a process manager must not start it again before somebody fixed it
        raise SystemExit(2) from error
