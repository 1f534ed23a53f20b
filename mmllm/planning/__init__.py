"""`mmllm plan`: what a training needs in memory, time and disk, found before any weight is loaded."""
