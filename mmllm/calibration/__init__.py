"""Probabilities of decisions fitted to, and measured on, questions whose answers are known."""
