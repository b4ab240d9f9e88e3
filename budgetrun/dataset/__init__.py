"""Data sets: each reads, and if need be downloads, images and labels."""
