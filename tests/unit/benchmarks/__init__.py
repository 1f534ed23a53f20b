"""Tests of ``benchmarks``: what is measured of the methods."""
