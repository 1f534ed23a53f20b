"""Where tests find what lies in the repository."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "reference" / "golden"
TEMPLATES = TESTS / "reference" / "templates"
