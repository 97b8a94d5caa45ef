"""A run on disk: its folder, and what is written into it."""
