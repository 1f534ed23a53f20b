"""Tests; shared tiny parts are in ``tests.parts``."""
