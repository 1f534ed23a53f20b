#!/usr/bin/env bash
# DeepSpeed's file "latest" may name a checkpoint whose shards are not all written yet.
#
# Guess: save_checkpoint is a collective call, and "latest" is written last, after every rank has saved: a folder that it
# names is whole, so it serves as a commit mark for whoever watches the folder, or loads after a crash.
# Seen (deepspeed 0.19.8, torch 2.13.0, two gloo ranks, ZeRO 1): rank 0 writes "latest" as soon as its own files are there,
# and the barrier comes after that. With a second rank whose disk takes eight seconds, "latest" says step2 while step2 lacks
# that rank's optimizer shard. If that rank is lost then, "latest" stays on a checkpoint that cannot be loaded.
# Ends with status 1 if that is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 deepspeed==0.19.8 setuptools==84.2.1 ninja==1.13.2
cat > look.py <<'PY'
import os
import socket
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp

FOLDER = Path("checkpoints")


def rank_main(rank, port):
    """One rank: a step, a checkpoint, and another that takes long on rank 1."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.init_distributed("gloo")
    model = torch.nn.Linear(64, 64)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": 1},
        "bf16": {"enabled": True},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    engine.backward(engine(torch.ones(1, 64, dtype=torch.bfloat16)).sum())
    engine.step()
    engine.save_checkpoint(FOLDER, tag="step1")
    if rank == 1:
        save = engine.checkpoint_engine.save

        def slow(*args, **kwargs):
            time.sleep(8)
            return save(*args, **kwargs)

        engine.checkpoint_engine.save = slow
    engine.save_checkpoint(FOLDER, tag="step2")


def files(tag):
    return sorted(path.name for path in (FOLDER / tag).iterdir())


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = mp.spawn(rank_main, args=(port,), nprocs=2, join=False)
    latest, ends = FOLDER / "latest", time.monotonic() + 900
    while not (latest.is_file() and latest.read_text() == "step2") and time.monotonic() < ends:
        time.sleep(0.02)
    early = files("step2")
    while not ranks.join():
        pass
    from importlib.metadata import version

    print("deepspeed", version("deepspeed"), "torch", version("torch"))
    print("guess: when latest says step2, all files of step2 are there:", files("step2"))
    print("seen at that moment:", early)
    assert files("step1") == files("step2") and set(files("step2")) - set(early) == {
        "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    }
PY
env/bin/python look.py
