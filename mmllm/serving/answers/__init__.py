"""Answers as clients read them: one module for each form of OpenAI's."""
