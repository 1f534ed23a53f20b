"""What ``mmllm serve`` says of itself reaches the terminal, whatever a library did to the root logger."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import logging
logging.info("as open_clip does when it loads a model: this sets the root logger to warnings")
from mmllm.serving.app import LOG, _log_to_terminal
for _ in range(2):
    _log_to_terminal()
LOG.info("demo is at http://127.0.0.1:8000/v1")
"""


def test_the_servers_lines_are_seen_once() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith(" demo is at http://127.0.0.1:8000/v1")
