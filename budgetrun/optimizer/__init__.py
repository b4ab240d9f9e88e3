"""torch's optimizers, with their values typed."""
