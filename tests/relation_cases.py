"""Cases of the ops over pairs of rows: relations, their distances, and the two losses over distances and angles.

The oracles are written out over [B, B] matrices and differentiated by autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops.registration import asks_gradients
from tests.case import BadSample, Case, Sample, randint, randn, storage_rounding, unit


def cosines(x: Tensor, y: Tensor) -> Tensor:
    def scaled(rows):
        norms = rows.square().sum(1, keepdim=True)
        return torch.where(norms == 0, 0.0, rows / torch.where(norms == 0, 1.0, norms).sqrt())

    return scaled(x) @ scaled(y).t()


def distances(x: Tensor, y: Tensor) -> Tensor:
    squares = (x[:, None] - y).square().sum(2)
    return torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())


def relations(x: Tensor, y: Tensor, kind: str) -> Tensor:
    if kind == "cosine":
        return cosines(x, y)
    return x @ y.t() if kind == "inner_product" else (x[:, None] - y).square().sum(2)


def huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, x.square() / 2, x.abs() - 0.5)


def with_degenerate_rows(x: Tensor) -> Tensor:
    """A row of zeros, two that coincide and one that is opposite."""
    x = x.clone()
    if len(x) > 4:
        x[1], x[3], x[4] = 0, x[2], -x[0]
    return x


def tables(dtype, B, D_t, D_s, seed, degenerate=True):
    teacher, student = randn(B, D_t, seed=seed, dtype=dtype), randn(B, D_s, seed=seed + 1, dtype=dtype)
    return (
        (with_degenerate_rows(teacher), with_degenerate_rows(student)) if degenerate else (teacher, student)
    )


SIZES = {
    "plain": (9, 7, 5, 1),
    "as wide as the teacher": (40, 8, 8, 2),
    "many rows": (210, 33, 10, 3),
    "B = 0": (0, 4, 3, 4),
    "B = 1": (1, 4, 3, 5),
    "D = 1": (6, 1, 1, 6),
    "D = 0": (3, 0, 0, 7),
}


def grad_budget(dtype, grad):
    # Upstream gradients of the tests stay below 4.
    return (4 * unit(dtype, 1e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs())


def loss_budget(dtype, expected, B, scale=1.0):
    loss = expected[0].abs()
    return (unit(dtype, 5e-6, 1e-11) * loss + unit(dtype, 1e-12, 1e-15) * B * B * scale,)


def relation_samples(dtype):
    for name, sizes in SIZES.items():
        x, _ = tables(dtype, *sizes)
        for kind in ("cosine", "inner_product", "squared_distance") if name == "plain" else ("cosine",):
            yield Sample(f"{name}, {kind}", (x, None, kind))
    x, y = randn(5, 6, seed=8, dtype=dtype), with_degenerate_rows(randn(7, 6, seed=9, dtype=dtype))
    yield Sample("two sets, cosine", (x, y, "cosine"))
    yield Sample("two sets, squared_distance", (x, y, "squared_distance"))


def relation_bad_samples():
    x = randn(3, 4)
    yield BadSample("integers", (x.long(),), TypeError, "x as a float32")
    yield BadSample("three dimensions", (x[None],), ValueError, "x with 2 dimensions")
    yield BadSample("widths differ", (x, randn(3, 5)), ValueError, "y of width 4, as x")
    yield BadSample("dtypes differ", (x, x.double()), TypeError, "y with the dtype of x")
    yield BadSample("no such kind", (x, None, "euclid"), ValueError, "kind as one of cosine, ")


def relation_budget(dtype, expected, x, y=None, kind="cosine"):
    norms = lambda rows: rows.double().norm(dim=1)
    size = norms(x)[:, None] * norms(x if y is None else y)
    if kind == "cosine":
        size = torch.ones_like(size)
    elif kind == "squared_distance":
        size = norms(x)[:, None].square() + norms(x if y is None else y).square()
    return (unit(dtype, 2e-6, 1e-14) * size,)


RELATION = Case(
    op="relation",
    samples=relation_samples,
    bad_samples=relation_bad_samples,
    oracle=lambda x, y=None, kind="cosine": relations(x, x if y is None else y, kind),
    budget=relation_budget,
    overload_calls=lambda args, kwargs: iter(
        [
            ("relation_forward", args),
            (
                "relation_backward",
                (randn(len(args[0]), len(args[0 if args[1] is None else 1])), *detached(args)),
            ),
        ]
    ),
    differentiable=(0, 1),
    grad_budget=lambda dtype, grad: (unit(dtype, 1e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs()),
    backends=("REFERENCE",),
)


def detached(args):
    return tuple(a.detach() if isinstance(a, Tensor) else a for a in args)


def distance_samples(dtype):
    for name, sizes in SIZES.items():
        teacher, student = tables(dtype, *sizes)
        yield Sample(f"{name}, cosine", (teacher, student))
    teacher, student = tables(dtype, 30, 6, 4, 10)
    yield Sample("inner_product", (teacher, student, "inner_product"))
    yield Sample("squared_distance", (teacher, student, "squared_distance"))
    yield Sample("no teacher's term", (teacher, student, "cosine", False))
    teacher, student = tables(dtype, 700, 80, 9, 11)
    yield Sample("several blocks", (teacher, student))
    yield Sample("teacher of another dtype", (teacher.double(), student))
    teacher = randn(50, 12, seed=12, dtype=dtype)
    for exponent in (1, 2, 3, 4):
        noise = 10**-exponent * randn(50, 12, seed=13, dtype=torch.float64)
        rotation = torch.linalg.qr(randn(12, 12, seed=14, dtype=torch.float64))[0]
        yield Sample(f"teacher + 1e-{exponent} noise", (teacher, (teacher.double() + noise).to(dtype)))
        rotated = teacher.double() @ rotation + noise
        yield Sample(f"teacher rotated + 1e-{exponent} noise", (teacher, rotated.to(dtype)))
    yield Sample("the teacher itself", (teacher, teacher.clone()))


def distance_bad_samples():
    teacher, student = randn(3, 4), randn(3, 2)
    yield BadSample("rows differ", (teacher[:2], student), ValueError, "teacher with 3 rows, as student")
    yield BadSample("integers", (teacher.long(), student), TypeError, "teacher as a float32")
    yield BadSample("one dimension", (teacher, student[0]), ValueError, "student with 2 dimensions")
    yield BadSample("no such kind", (teacher, student, "euclid"), ValueError, "kind as one of")


def distance_oracle(teacher, student, kind="cosine", teacher_term=True):
    wanted = relations(teacher, teacher, kind)
    loss = (wanted - relations(student, student, kind)).square().sum()
    return loss if teacher_term else loss - wanted.square().sum()


def distance_budget(dtype, expected, teacher, student, kind="cosine", teacher_term=True):
    # Relations other than cosines are in the square of a row's length.
    sizes = [t.double().square().sum(1).amax() if t.numel() else torch.zeros(()) for t in (teacher, student)]
    scale = 1.0 if kind == "cosine" else 16 * max(map(float, sizes)) ** 2
    return loss_budget(dtype, expected, len(student), scale)


def slopes_calls(op, defaults=()):
    """Both overloads of an op of (teacher, student, …)."""

    def calls(args, kwargs):
        args = (*args, *defaults[len(args) - 2 :])
        yield f"{op}_forward", (*args, asks_gradients(args[1]))
        student = args[1].detach()
        wide = torch.float64 if student.dtype == torch.float64 else torch.float32
        slopes = randn(*student.shape, seed=8, dtype=wide)
        yield f"{op}_backward", (randn(1, seed=9, dtype=wide)[0], student, slopes)

    return calls


RELATION_DISTANCE = Case(
    op="relation_distance",
    samples=distance_samples,
    bad_samples=distance_bad_samples,
    oracle=distance_oracle,
    budget=distance_budget,
    overload_calls=slopes_calls("relation_distance", ("cosine", True)),
    differentiable=(1,),
    grad_budget=grad_budget,
    backends=("GRAM", "REFERENCE"),
)


def grouped_samples(dtype):
    for name, sizes in SIZES.items():
        teacher, student = tables(dtype, *sizes)
        groups = randint(0, 4, (sizes[0],), seed=20)
        yield Sample(name, (teacher, student, groups))
        yield Sample(f"{name}, positive only", (teacher, student, groups, True))
    teacher, student = tables(dtype, 130, 5, 3, 21)
    groups = randint(-1, 3, (130,), seed=22)
    yield Sample("rows of no group", (teacher, student, groups, True))
    yield Sample("groups of one", (teacher, student, torch.arange(130).flip(0) * 7))
    yield Sample("one group", (teacher, student, torch.zeros(130, dtype=torch.int64)))
    yield Sample("one group, positive only", (teacher, student, torch.zeros(130, dtype=torch.int64), True))
    yield Sample("no group", (teacher, student, torch.full((130,), -3)))
    near = (teacher.double() + 1e-4 * randn(130, 5, seed=23, dtype=torch.float64)).to(dtype)
    yield Sample("teacher + 1e-4 noise", (teacher, near, groups, True))


def grouped_bad_samples():
    teacher, student, groups = randn(3, 4), randn(3, 2), torch.tensor([0, 1, 0])
    yield BadSample("rows differ", (teacher[:2], student, groups), ValueError, "teacher with 3 rows")
    yield BadSample("groups of others", (teacher, student, groups[:2]), ValueError, "groups with 3 rows")
    yield BadSample("groups of int32", (teacher, student, groups.int()), TypeError, "groups as a int64")


def grouped_oracle(teacher, student, groups, positive_only=False):
    wanted = cosines(teacher, teacher)
    counted = (groups[:, None] == groups) & (groups >= 0)
    if positive_only:
        counted = counted & (wanted > 0)
    return torch.where(counted, cosines(student, student) - wanted, 0.0).square().sum()


def relation_loss_budget(dtype, expected, teacher, student, *_, **__):
    return loss_budget(dtype, expected, len(student))


GROUPED_RELATION_DISTANCE = Case(
    op="grouped_relation_distance",
    samples=grouped_samples,
    bad_samples=grouped_bad_samples,
    oracle=grouped_oracle,
    budget=relation_loss_budget,
    overload_calls=slopes_calls("grouped_relation_distance", (None, False)),
    differentiable=(1,),
    grad_budget=grad_budget,
)


def cross_samples(dtype):
    for name, (B, D_t, D_s, seed) in SIZES.items():
        for G in (0, 1, 6) if name == "plain" else (6,):
            rows, columns = tables(dtype, B, D_t, D_s, seed), tables(dtype, G, D_t, D_s, seed + 30)
            left_out = randint(-1, 7, (B,), seed=31) if G != 1 else None
            yield Sample(f"{name}, G = {G}", (rows[0], columns[0], rows[1], columns[1], left_out))


def cross_bad_samples():
    t, p, s, q = randn(3, 4), randn(2, 4), randn(3, 5), randn(2, 5)
    yield BadSample("rows differ", (t[:2], p, s, q), ValueError, "teacher_rows with 3 rows, as student_rows")
    yield BadSample("columns differ", (t, p[:1], s, q), ValueError, "teacher_columns with 2 rows")
    yield BadSample("widths differ", (t, q, s, q), ValueError, "teacher_columns of width 4")
    yield BadSample("dtypes differ", (t, p, s, q.double()), TypeError, "student_columns with the dtype")
    yield BadSample("left_out of others", (t, p, s, q, torch.zeros(2).long()), ValueError, "left_out with 3")
    yield BadSample("left_out of int32", (t, p, s, q, torch.zeros(3).int()), TypeError, "left_out as a int64")


def cross_oracle(t, p, s, q, left_out=None):
    counted = torch.ones(len(t), len(p), dtype=torch.bool)
    if left_out is not None:
        counted = torch.arange(len(p)) != left_out[:, None]
    return torch.where(counted, cosines(s, q) - cosines(t, p), 0.0).square().sum()


def cross_calls(args, kwargs):
    yield "cross_relation_distance_forward", (*args, asks_gradients(args[2], args[3]))
    for rows in (args[2].detach(), args[3].detach()):
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        slopes = randn(*rows.shape, seed=8, dtype=wide)
        yield "cross_relation_distance_backward", (randn(1, seed=9, dtype=wide)[0], rows, slopes)


CROSS_RELATION_DISTANCE = Case(
    op="cross_relation_distance",
    samples=cross_samples,
    bad_samples=cross_bad_samples,
    oracle=cross_oracle,
    budget=lambda dtype, expected, t, p, *_, **__: loss_budget(dtype, expected, max(len(t), len(p))),
    overload_calls=cross_calls,
    differentiable=(2, 3),
    grad_budget=grad_budget,
    backends=("GRAM", "REFERENCE"),
)


def huber_samples(dtype):
    for name, sizes in SIZES.items():
        yield Sample(name, tables(dtype, *sizes))
    teacher, student = tables(dtype, 20, 6, 3, 40)
    yield Sample("far from the origin", (teacher + 300, student + 40))
    yield Sample("all rows coincide", (teacher, student[:1].expand(20, 3).clone()))
    yield Sample("an outlier", (teacher, torch.cat([student[:-1], 50 * student[:1]])))
    teacher, student = tables(dtype, 299, 33, 10, 41)
    yield Sample("float32 products", (teacher, student))
    near = student.double() + 1e-4 * randn(299, 10, seed=43, dtype=torch.float64)
    near = torch.where((torch.arange(299) % 20 == 0)[:, None], near.roll(1, 0), student.double()).to(dtype)
    yield Sample("float32 products, some rows near each other", (teacher, near))
    yield Sample("float32 products, some of the teacher's", (near, teacher))
    centres = student[torch.arange(299) % 5].double()
    near = (centres + 1e-3 * randn(299, 10, seed=44, dtype=torch.float64)).to(dtype)
    yield Sample("float32 products, many rows near each other", (teacher, near))


def pair_oracle(teacher, student):
    def scaled(x):
        d = distances(x, x)
        total = d.sum()
        return d * (torch.where(total == 0, 0.0, (d > 0).sum() / torch.where(total == 0, 1.0, total)))

    return huber(scaled(student) - scaled(teacher)).sum()


PAIR_DISTANCE_HUBER = Case(
    op="pair_distance_huber",
    samples=huber_samples,
    bad_samples=lambda: (b for b in distance_bad_samples() if b.name != "no such kind"),
    oracle=pair_oracle,
    budget=relation_loss_budget,
    overload_calls=slopes_calls("pair_distance_huber"),
    differentiable=(1,),
    grad_budget=grad_budget,
)


def angle_samples(dtype):
    for name, sizes in SIZES.items():
        if sizes[0] <= 40:
            yield Sample(name, (*tables(dtype, *sizes), None))
    teacher, student = tables(dtype, 110, 6, 3, 50)
    yield Sample("a few anchors", (teacher, student, torch.tensor([3, 109, 3])))
    teacher, student = tables(dtype, 211, 33, 10, 51)
    yield Sample("float32 products", (teacher, student, torch.tensor([1, 2, 210])))
    yield Sample("no anchors", (teacher, student, torch.zeros(0, dtype=torch.int64)))


def angle_bad_samples():
    teacher, student = randn(3, 4), randn(3, 2)
    yield BadSample("rows differ", (teacher[:2], student), ValueError, "teacher with 3 rows")
    yield BadSample(
        "anchor of B", (teacher, student, torch.tensor([0, 3])), IndexError, r"anchors in \[0, 3\); got 3"
    )
    yield BadSample("anchor of -1", (teacher, student, torch.tensor([-1])), IndexError, "got -1")
    yield BadSample(
        "anchors of int32", (teacher, student, torch.tensor([1]).int()), TypeError, "anchors as a int64"
    )


def angle_oracle(teacher, student, anchors=None):
    loss = 0 * student.sum()
    for a in range(len(student)) if anchors is None else anchors.tolist():
        s, t = student - student[a], teacher - teacher[a]
        loss = loss + huber(cosines(s, s) - cosines(t, t)).sum()
    return loss


def angle_budget(dtype, expected, teacher, student, anchors=None):
    count = len(student) if anchors is None else len(anchors)
    return loss_budget(dtype, expected, len(student), max(1, count))


TRIPLET_ANGLE_HUBER = Case(
    op="triplet_angle_huber",
    samples=angle_samples,
    bad_samples=angle_bad_samples,
    oracle=angle_oracle,
    budget=angle_budget,
    overload_calls=slopes_calls("triplet_angle_huber", (None,)),
    differentiable=(1,),
    grad_budget=grad_budget,
)

RELATION_CASES = (
    RELATION,
    RELATION_DISTANCE,
    GROUPED_RELATION_DISTANCE,
    CROSS_RELATION_DISTANCE,
    PAIR_DISTANCE_HUBER,
    TRIPLET_ANGLE_HUBER,
)
