"""How the miniature parts are trained and measured."""
