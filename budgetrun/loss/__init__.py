"""Losses: each gives the loss of every image, from logits and the shares of its sources."""
