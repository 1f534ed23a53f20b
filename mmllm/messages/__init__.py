"""Messages: chat templates, and conversations as tokens with their labels and placeholders."""
