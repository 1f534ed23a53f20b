"""Puts the shipped recipes and miniature parts into a wheel, as ``mmllm/shipped``; all else stands in pyproject.toml.

In the source they stay folders of the top level, ``recipes/`` and ``data/mini/``. A mapping in pyproject's
``package-dir`` could say the same, but setuptools then installs a clone by an import hook, and in the folder that holds
the clone Python finds the clone's folder as an empty package before it asks the hook. Without one it is a path entry.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("recipes/**/*.yaml", *(f"data/mini/{part}/*" for part in ("lm", "clip", "vit", "audio")))
"""What the project ships beside its code; generated data stays out."""


def shipped() -> list[str]:
    """Files of ``SHIPPED``, relative to this folder; a pattern without a file would make a wheel that lacks it."""
    found = {pattern: sorted(path for path in Path().glob(pattern) if path.is_file()) for pattern in SHIPPED}
    missing = [pattern for pattern, paths in found.items() if not paths]
    if missing:
        raise SystemExit(f"the source has no {' and no '.join(missing)}; build from a whole checkout or sdist")
    return [path.as_posix() for paths in found.values() for path in paths if path.suffix != ".tmp"]


class BuildPy(build_py):
    """Copies the package and, below it, what is shipped; an editable install reads both where they lie."""

    def run(self) -> None:
        """Start from an empty build folder: setuptools would keep modules that an older source had."""
        if self.editable_mode:
            return super().run()
        package = Path(self.build_lib, "mmllm")
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for file in shipped():
            target = package / "shipped" / file
            self.mkpath(str(target.parent))
            self.copy_file(file, str(target))

    def get_source_files(self) -> list[str]:
        """What an sdist takes."""
        return [*super().get_source_files(), *shipped()]


setup(cmdclass={"build_py": BuildPy})
