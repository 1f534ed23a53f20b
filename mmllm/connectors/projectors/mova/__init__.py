"""The ``mova`` projector: a base encoder and the experts that an item is routed to."""
