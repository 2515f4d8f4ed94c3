"""Training on several processes with the mathematics of one: shares of a batch, and sums of gradients."""

from rankdistill.parallel.agreement import facts_of
from rankdistill.parallel.copies import Copies
from rankdistill.parallel.gradients import reduce_gradients
from rankdistill.parallel.objective import Objective, Term
from rankdistill.parallel.processes import torchrun_processes
from rankdistill.parallel.state import broadcast_state

__all__ = [
    "Copies",
    "Objective",
    "Term",
    "broadcast_state",
    "facts_of",
    "reduce_gradients",
    "torchrun_processes",
]
