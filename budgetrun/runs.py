"""Finished runs as a pandas table, for a notebook: `from budgetrun.runs import frame`."""

from budgetrun.tables.runs import frame as frame
