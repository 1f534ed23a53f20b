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
from mmllm.serving.access import Access, host_name
from mmllm.serving.app import load_app
from mmllm.serving.keys import KeyFile

RUN = "MMLLM_RUN"
"""Environment variable that names the run folder."""
KEYS = "MMLLM_KEYS"
"""Names the file of API keys; without one the server answers connections to the loopback alone."""
OPEN = "MMLLM_OPEN"
"""1: others may ask without a key, since something in front of the server knows who they are."""
HOSTS = "MMLLM_HOSTS"
"""Names under which the server may be asked besides the loopback's and the recipe's, with commas between them."""

TOOLS = "MMLLM_TOOLS"
"""Names a file of tools that answers may ask for, as ``mmllm serve --tools`` has it."""


def app() -> FastAPI:
    """The application around the last checkpoint of the run that ``MMLLM_RUN`` names; one sentence and exit 2 if none.

    Each call loads the model anew, so each worker process of the ASGI server holds one.
    """
    run = os.environ.get(RUN)
    try:
        if not run:
            raise MmllmError(f"{RUN} is not set; set it to a run folder, e.g. {RUN}=runs/demo")
        tools = os.environ.get(TOOLS)
        return load_app(Path(run), access=_access(), tools=Path(tools) if tools else None)[1]
    except MmllmError as error:
        print(f"mmllm: {error}", file=sys.stderr)
        # exit 2, as `mmllm serve`: a process manager must not start it again before somebody fixed it
        raise SystemExit(2) from error


def _access() -> Access:
    """Who may ask, as the environment says."""
    keys = os.environ.get(KEYS)
    hosts = frozenset(host_name(host) for host in os.environ.get(HOSTS, "").split(",") if host.strip())
    return Access(hosts, keys=KeyFile(Path(keys)) if keys else None, open=os.environ.get(OPEN) == "1")
