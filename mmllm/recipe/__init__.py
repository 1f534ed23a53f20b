"""The recipe: YAML read into frozen, checked models; first in the flow, needs no torch."""
