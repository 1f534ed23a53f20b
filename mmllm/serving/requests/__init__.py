"""Bodies of requests: what each endpoint takes, checked before anything is read."""
