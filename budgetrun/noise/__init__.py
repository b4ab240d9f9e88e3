"""Noise: each corrupts training examples, and marks which."""
