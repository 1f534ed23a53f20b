"""Writers of generated blocks, one file each: every function takes nothing and returns Markdown."""
