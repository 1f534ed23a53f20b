"""Methods against their papers' equations, stated again in plain torch."""
