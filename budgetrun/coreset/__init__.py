"""Core-set methods: each chooses few examples that stand for all of them."""
