"""What a teacher knows of millions of users stays in its files: a batch reads its users' rows."""

from __future__ import annotations

import sys

import pytest

from tests.process import output

CODE = """
import resource, sys, torch
from pathlib import Path
from rankdistill import Batch, CollaborativeDistillation, HintRegression, RelaxedRankingDistillation, Share, UnbiasedDistillation
from rankdistill import MatrixFactorization, Rankings
from rankdistill.data import CSR
from rankdistill.rankings.mapping import Stretch, mapped

torch.set_num_threads(1)
U, N, K, D = 5_000_000, 50, 200, 100
def held(name, dtype, *shape):  # a file with holes: zeros that cost no disk
    size = torch.Size(shape).numel() * dtype.itemsize
    with open(Path(sys.argv[1]) / name, "wb") as file:
        file.truncate(size)
    return mapped([Stretch(str(Path(sys.argv[1]) / name), 0, size)]).view(dtype).view(shape)

lengths = torch.full((U,), 3, dtype=torch.int32)
rankings = Rankings(held("indices", torch.int32, U, K), held("scores", torch.float32, U, K), lengths, N)
tables = held("users", torch.float32, U, D), torch.ones(N, D)
train = CSR.from_pairs(torch.tensor([0]), torch.tensor([7]), U, N)
student = MatrixFactorization(U, N, 4)
methods = [
    RelaxedRankingDistillation(rankings, train, 5, 5), UnbiasedDistillation(rankings, train, 4, n_groups=1),
    CollaborativeDistillation(rankings, train, 5), HintRegression(*tables, student_width=4),
]
users = torch.arange(0, U, U // 64)
batch = Batch(users, users % N, (users + 1)[:, None] % N, Share(1, 2))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for method in methods:
    method.begin_epoch(0, student)
    assert torch.isfinite(method(student, batch)), method
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="files with holes and ru_maxrss in KiB are Linux's")
def test_a_batch_reads_its_users_rows_alone(tmp_path):
    """10 GB of lists and vectors, 4 methods, of 5 million users: some MB."""
    code = CODE.replace("sys.argv[1]", repr(str(tmp_path)))
    assert int(output(code)) < 100  # MiB
