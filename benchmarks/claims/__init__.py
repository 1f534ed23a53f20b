"""The papers' claims tried in miniature: experiments, the harness that runs them, and the table of what came out."""
