"""A child that is forked after the parent used an op finishes, with the same values."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.process import with_tests

SCRIPT = """
import os, signal, time, torch, rankdistill as rd
torch.set_num_threads(2)
assert torch.get_num_threads() == 2
g = torch.Generator().manual_seed(0)
users, items = torch.randn(400, 24, generator=g), torch.randn(4000, 24, generator=g)
ids = torch.randint(0, 4000, (400, 60), generator=g)

def gradients():
    few, table = users[:40].clone().requires_grad_(), items[:900].clone().requires_grad_()
    losses = rd.catalogue_plackett_luce(few, table, ids[:40, :9] % 900)
    return torch.autograd.grad(losses, (few, table), torch.arange(40.0))

def results():
    top = rd.inner_product_topk(users, items, 20)
    scores = rd.gathered_inner_product(users, items, ids)
    ranks = rd.inner_product_rank(users, items, ids[:, :9]), rd.masked_rank(scores, ids[:, :9] % 60)
    return *gradients(), *top, *rd.masked_topk(scores, 20), *ranks, scores, rd.plackett_luce(scores[:, :30], scores[:, 30:]), rd.catalogue_plackett_luce(users, items, ids[:, :9], exclude=(torch.arange(401), ids[:, 9])), rd.complement_sample(torch.arange(400), 4000, 9, seed=1)

torch.set_num_threads(1)
before = results()
torch.set_num_threads(2)
PARENT
child = os.fork()
if child == 0:
    code = 4  # an exception
    try:
        code = 0 if all(torch.equal(a, b) for a, b in zip(before, results(), strict=True)) else 3
    finally:
        os._exit(code)
deadline = time.monotonic() + 60
while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
    time.sleep(0.01)
if not ended[0]:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise SystemExit("the child did not finish within a minute")
print(os.waitstatus_to_exitcode(ended[1]))
assert all(torch.equal(a, b) for a, b in zip(before, results(), strict=True))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("parent", ["results()", "users @ items.t()"], ids=["our threads", "torch's threads"])
def test_a_forked_child_finishes_with_right_values(parent):
    """The runtime of threads is torch's too: whoever used them before the fork."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT.replace("PARENT", parent)],
        env=with_tests(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0", "expected a child that ends with 0: 3 is other values, 4 an exception"
