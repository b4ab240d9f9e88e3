"""Data sets: each reads images and labels, and downloads them if needed."""
