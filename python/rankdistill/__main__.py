"""`python -m rankdistill`: the command line."""

from rankdistill.cli import run

run()
