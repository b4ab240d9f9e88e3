"""Write a page about finished runs: `python scripts/report.py outputs/smoke`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed

from budgetrun.report.page import main

if __name__ == "__main__":
    sys.exit(main())
