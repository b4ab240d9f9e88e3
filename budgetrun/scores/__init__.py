"""Scorers: each scores every example in an ordinary run, for samplers that read a file."""
