"""LLM adapters: what learns inside the frozen LLM."""

import logging

# peft imports bitsandbytes where that is installed, which (0.50) warns about a package for 4 bits on a CPU each time
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
