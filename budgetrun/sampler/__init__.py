"""Samplers: each chooses what the next update trains on."""
