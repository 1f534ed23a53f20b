"""Real frozen parts out of public Python packages, for users who want more than the miniature ones: ``__main__.py``.

Nothing else of the project imports this folder; what it writes are standard folders that any recipe may name.
"""
