"""budgetrun: the experiment runner for training under a budget.

From Python: `run`, `sweep`, `compose`, `frame` and `compare`, see budgetrun/api.py. They are imported when they are
asked for, since they need torch or pandas, and commands such as `--help` do not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgetrun.api import compare as compare
    from budgetrun.api import compose as compose
    from budgetrun.api import frame as frame
    from budgetrun.api import run as run
    from budgetrun.api import sweep as sweep
    from budgetrun.errors import UserError as UserError

__version__ = "0.2.0"
__all__ = ["UserError", "compare", "compose", "frame", "run", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from budgetrun import api, errors

    return getattr(errors if name == "UserError" else api, name)
