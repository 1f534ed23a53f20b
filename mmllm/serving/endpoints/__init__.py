"""Endpoints of OpenAI's API, one module for each: a body comes in, is read, answered and laid out."""
