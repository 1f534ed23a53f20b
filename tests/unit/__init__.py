"""Tests of the package's modules, in folders like its own; `scripts/test unit` runs them."""
