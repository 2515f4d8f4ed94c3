"""Every instruction set that this processor has, forced in turn: the ops' tests, and the same bits of exact results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import with_tests

native = pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
ROOT = Path(__file__).parents[2]

FILTERS_ALONE = ("avx512vnni", "avx512bf16")  # AVX-512 for all else

FINGERPRINT = """
import hashlib, torch, rankdistill as rd
from rankdistill import _native
g = torch.Generator().manual_seed(0)
digest = hashlib.sha256()
for B, N, D, k in ((70, 900, 20, 30), (33, 5000, 64, 10), (5, 40, 7, 50), (40, 3000, 1, 5)):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for scale in (1e-39, 1.0, 1e18):  # fp16: zeros, numbers, infinities
            users, items = (torch.randn(n, D, generator=g) for n in (B, N))
            items[: N // 2] = items[N // 2 : N // 2 * 2]  # ties
            for part in rd.inner_product_topk(users.to(dtype), (items * scale).to(dtype), k):
                digest.update(part.numpy().tobytes())
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        users, items, scores = (torch.randn(*n, generator=g).to(dtype) for n in ((B, D), (N, D), (B, N)))
        items[: N // 2] = items[N // 2 : N // 2 * 2]
        listed, mask = torch.randint(-1, N, (B, k), generator=g), torch.rand(B, N, generator=g) < 0.1
        for part in (*rd.masked_topk(scores, k, mask)[1:], rd.masked_rank(scores, listed, mask)):
            digest.update(part.numpy().tobytes())
        digest.update(rd.inner_product_rank(users, items, listed).numpy().tobytes())
        bias = torch.randn(N, generator=g).to(dtype)
        for j, value in enumerate((-torch.inf, torch.nan, torch.finfo(dtype).min)):
            bias[j::9] = value
        digest.update(rd.inner_product_rank(users, items, listed, None, bias).numpy().tobytes())
        for part in rd.inner_product_topk(users, items, k, None, bias)[dtype == torch.float64 :]:
            digest.update(part.numpy().tobytes())
draw = {"seed": 1, "epoch": 2, "stream": 3}
ids = torch.arange(300)
digest.update(rd.position_sample(ids, ids, 20, 5.0, **draw).numpy().tobytes())
digest.update(rd.gumbel_noise(ids, 30, **draw).numpy().tobytes())
digest.update(rd.dropout_mask(ids, 3, 37, 0.3, **draw).numpy().tobytes())
digest.update(rd.complement_sample(ids, 1000, 20, **draw).numpy().tobytes())
print(_native.isa(), digest.hexdigest())
"""


def forced(isa: str, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *command],
        env=with_tests(RANKDISTILL_ISA=isa),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("isa", native.supported_isas())
def test_ops_pass_under(isa):
    assert forced(isa, "-c", "from rankdistill import _native; print(_native.isa())").strip() == isa
    # What does not depend on kernels is left out.
    chosen = "not compiles and not opcheck and not triton and not bad_input and not gpu"
    if isa in FILTERS_ALONE:
        chosen += " and topk"
    command = (
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/ops",
        "-k",
        chosen,
        "-m",
        "not slow",
    )
    assert " passed" in forced(isa, *command)


def test_exact_results_have_the_same_bits_on_every_instruction_set():
    found = dict(forced(isa, "-c", FINGERPRINT).split() for isa in native.supported_isas())
    assert list(found) == native.supported_isas()
    assert len(set(found.values())) == 1
