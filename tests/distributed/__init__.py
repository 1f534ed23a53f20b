"""Two ranks on this machine; a ``*_rank`` module is what each of them runs."""
