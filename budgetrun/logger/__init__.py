"""Trackers: each writes the evaluations of a run where it is compared with others."""
