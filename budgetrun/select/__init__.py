"""Rules that choose a subset by the scores of its examples, one per file."""
