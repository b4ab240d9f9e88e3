"""Models: each builds a network from the number of channels and classes."""
