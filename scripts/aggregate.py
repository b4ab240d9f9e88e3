"""Tabulate finished runs: `python scripts/aggregate.py --rows sampler,aug --cols budget`."""

import sys

from budgetrun.aggregate import main

if __name__ == "__main__":
    sys.exit(main())
