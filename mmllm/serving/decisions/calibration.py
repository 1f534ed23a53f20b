"""How far a run's probabilities are to be trusted: what a held-out set makes of them, kept beside the run.

A choice and a score have a temperature (Guo et al. 2017, arXiv 1706.04599), a predicate a slope and a bias of its log
odds (Platt 1999): small models lean to yes whatever is asked.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmllm.checkpoints.load import last_checkpoint, run_recipe
from mmllm.checkpoints.store import LEARNED
from mmllm.errors import MmllmError

LOG = logging.getLogger("serve")

FILE = "decisions.json"
Kind = Literal["predicate", "choice", "score"]
KINDS: tuple[Kind, ...] = ("predicate", "choice", "score")


@dataclass(frozen=True)
class Scale:
    """What is done to the log weights of one kind of question: ``slope`` times each, plus ``bias`` on the first.

    Of a predicate the first is yes. A slope of 1 / T is a temperature T.
    """

    slope: float = 1.0
    bias: float = 0.0

    def probabilities(self, weights: Sequence[float]) -> list[float]:
        """Log weights of the options, at least one of them finite -> their probabilities."""
        scaled = [self.slope * one + (self.bias if number == 0 else 0.0) for number, one in enumerate(weights)]
        most = max(scaled)
        parts = [math.exp(one - most) for one in scaled]
        total = math.fsum(parts)
        return [one / total for one in parts]


@dataclass(frozen=True)
class Calibration:
    """Of a run: a scale for each kind of question that its held-out set had."""

    weights: str
    """Digest of the learned weights it was made with."""
    scales: Mapping[str, Scale] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Kind -> what was measured on questions that it was not fitted to, before and after."""
    data: Mapping[str, str] = field(default_factory=dict)
    """File of the held-out set -> its digest."""

    def of(self, kind: str) -> Scale:
        """The scale of a kind of question; one that changes nothing where there is none."""
        return self.scales.get(kind, Scale())

    def write(self, run: Path) -> Path:
        """Keep it with its run; the file."""
        path = run / FILE
        new = path.with_name(f"{FILE}.new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(path)
        return path


UNCALIBRATED = Calibration("")


def read_calibration(run: Path) -> Calibration:
    """The calibration of a run, or ``UNCALIBRATED``.

    Raises:
        MmllmError: it was made with other weights, or is damaged. Probabilities would be moved by what is not theirs.
    """
    path = run / FILE
    if not path.is_file():
        return UNCALIBRATED
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        scales = {kind: Scale(**scale) for kind, scale in found.pop("scales").items()}
        calibration = Calibration(scales=scales, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MmllmError(f"{path} is no calibration ({error}); {_ANEW}") from error
    if calibration.weights != weights_of(run):
        raise MmllmError(f"{path} was made with other weights than {run} has now; {_ANEW}")
    return calibration


def calibration_beside(run: Path) -> Calibration | None:
    """The calibration that a server reads; None, and a line of the log, where it cannot be taken."""
    try:
        return read_calibration(run)
    except MmllmError as error:
        LOG.error("no decisions of %s are given: %s", run, error)
        return None


_ANEW = "mmllm calibrate makes it anew, and without the file nothing is calibrated."


def weights_of(run: Path) -> str:
    """Digest of what a run has learned; empty where it has no checkpoint."""
    found, _ = last_checkpoint(run, run_recipe(run))
    return "" if found is None else found.manifest.files[LEARNED][1]
