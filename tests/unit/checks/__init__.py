"""What `mmllm check` opens, part by part."""
