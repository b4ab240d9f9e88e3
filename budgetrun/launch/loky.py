"""joblib's worker processes, as sweeps start them."""

from __future__ import annotations

from typing import Any

from joblib.parallel import LokyBackend

from budgetrun.launch.workers import leave_with_the_first


class Workers(LokyBackend):  # type: ignore[misc] # joblib has no types
    """Processes that end when the one that started them ends, for whatever reason, even if they never got a job."""

    def configure(self, *args: Any, **options: Any) -> int:
        return super().configure(*args, **options, initializer=leave_with_the_first)
