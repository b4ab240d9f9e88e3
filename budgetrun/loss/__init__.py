"""Losses: each computes the loss of every image from its logits and the shares of its sources."""
