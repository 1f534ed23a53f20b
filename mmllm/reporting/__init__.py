"""`mmllm report`: what a run is made of, how it trained and what it answers, as one HTML file."""
