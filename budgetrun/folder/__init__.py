"""A run on disk: its files, its state, and reading what cannot be trusted."""
