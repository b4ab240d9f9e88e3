"""budgetrun: the experiment runner for training under a budget."""

__version__ = "0.2.0"
