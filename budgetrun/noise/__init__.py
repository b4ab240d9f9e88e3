"""Noise: each kind corrupts training examples and marks them."""
