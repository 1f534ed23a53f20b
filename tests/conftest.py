"""What every test runs under: no network, one thread per process (pytest-xdist gives each core its own process)."""

import os

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Set here, before any test module imports torch or transformers: both read them once, at import.
os.environ.update(OFFLINE)
os.environ.setdefault("OMP_NUM_THREADS", "1")
