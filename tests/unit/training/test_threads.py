"""Threads of torch: the recipe's, else the run's, else as many as there are cores to have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mmllm.training.threads import free_cores, thread_settings, use_threads


def test_what_the_recipe_says_comes_first_and_what_the_user_set_stays() -> None:
    assert thread_settings({}, 3) == {"OMP_NUM_THREADS": "3"}
    mine = {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "PASSIVE"}
    assert thread_settings(mine, None) == {"OMP_NUM_THREADS": "5"}
    assert thread_settings(mine, 3) == {"OMP_NUM_THREADS": "3"}


def test_cores_are_those_of_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the load of the last minute was: it would decide a run's speed, and its last bits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0))
    assert free_cores() == 8
    assert thread_settings({}, None, ranks=3)["OMP_NUM_THREADS"] == "2"


def test_a_run_that_goes_on_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        for asked, begun, expected in ((None, 3, 3), (2, 3, 2), (None, None, 2)):
            use_threads(asked, begun)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_torch_obeys_them() -> None:
    """Before it is loaded, so in a process of its own."""
    code = (
        "import os; from mmllm.training.threads import thread_settings; "
        "os.environ.update(thread_settings(os.environ, 2)); import torch; print(torch.get_num_threads())"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
