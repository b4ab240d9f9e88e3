"""Print the state of a sweep's runs: `python scripts/status.py outputs/smoke`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed

from budgetrun.status import main

if __name__ == "__main__":
    sys.exit(main())
