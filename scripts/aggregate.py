"""Tabulate finished runs: `python scripts/aggregate.py --rows sampler,aug --cols budget`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed

from budgetrun.aggregate import main

if __name__ == "__main__":
    sys.exit(main())
