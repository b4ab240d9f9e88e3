"""budgetrun: the experiment runner for training under a budget."""

__version__ = "0.1.0"
