"""`python -m rankdistill`: the command line."""

import sys

from rankdistill.cli import main

sys.exit(main())
