"""What others' code, chat templates and lists of names written before must equal."""
