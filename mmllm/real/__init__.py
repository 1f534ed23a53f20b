"""Real frozen parts out of public Python packages, and a model of them: ``__main__.py``.

What it writes are standard folders that any recipe may name; of the rest of the project only the command line imports
it, for ``mmllm chat real``.
"""
