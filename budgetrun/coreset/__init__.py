"""Core-set methods: each chooses a few examples that represent all of them."""
