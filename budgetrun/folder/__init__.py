"""A run on disk: its files, its state, and the reading of files that cannot be trusted."""
