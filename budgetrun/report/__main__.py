"""`python -m budgetrun.report outputs/smoke`."""

import sys

from budgetrun.report.page import main

sys.exit(main())
