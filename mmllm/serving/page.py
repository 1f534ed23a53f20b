"""The command that starts the chat page, for the sentences that tell a user how."""

from __future__ import annotations

from pathlib import Path


def page_command(server: str | None = None) -> str:
    """Return the command that starts the chat page, typed where the user stands; ``server`` is where its API answers.

    The page is a file of the repository and speaks HTTP only; a wheel has none, so there it is said where to get it.
    Without ``server`` the page takes the default address of ``mmllm serve``.
    """
    page = Path(__file__).resolve().parents[2] / "streamlit_app.py"
    setting = f"MMLLM_SERVER={server} " if server else ""
    if not page.is_file():
        return f"{setting}streamlit run streamlit_app.py, in a clone of the repository (the page is not in the package)"
    here = Path.cwd()
    return f"{setting}streamlit run {page.relative_to(here) if page.is_relative_to(here) else page}"
