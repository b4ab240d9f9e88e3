"""Learning rates as functions of the progress through the budget."""
