"""Scores and losses of the models against their formulas, written out plainly in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rankdistill import (
    Batch,
    CollaborativeMetricLearning,
    ItemAutoencoder,
    LightGraphConvolution,
    MultinomialAutoencoder,
    NeuralMatrixFactorization,
    SelfAttentiveRecommendation,
)
from rankdistill.data import CSR
from rankdistill.losses.dropout import EpochDropout
from tests.case import generator, randint

U, N, D = 7, 9, 4
USERS, ITEMS = torch.arange(U), torch.arange(N).expand(U, N)
HAS = (torch.rand(U, N, generator=generator(1)) < 0.4).index_fill_(0, torch.tensor([3]), False)
TRAIN = CSR.from_any(HAS)


def wide(model: torch.nn.Module, scale: float = 0.5) -> torch.nn.Module:
    """In float64, with values that are nowhere near 0."""
    model.double()
    with torch.no_grad():
        for at, parameter in enumerate(model.parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator(at), dtype=torch.float64))
    return model


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def batch(n_negatives: int) -> Batch:
    return Batch(torch.tensor([0, 2, 2]), torch.tensor([1, 4, 5]), randint(0, N, (3, n_negatives), seed=3))


def ball(point):
    return point / point.norm().clamp_min(1)


def test_metric_learning():
    model = wide(CollaborativeMetricLearning(U, N, D, margin=0.7))
    x, y = model.user_table, model.item_table
    squares = torch.stack(
        [torch.stack([(ball(x[u]) - ball(y[i])).square().sum() for i in range(N)]) for u in range(U)]
    )
    norms = x.detach().norm(dim=1)
    assert norms.max() > 1 > norms.min()
    close(model.score(USERS, ITEMS), -squares)
    given, expected = batch(4), 0.0
    negatives = given.negatives.clone()
    negatives[0, 2], negatives[1] = -1, -1
    for u, i, others in zip(given.users, given.positives, negatives):
        far = [squares[u, j] for j in others if j >= 0]
        if far:
            violated = sum(float(d < squares[u, i] + 0.7) for d in far)
            expected = expected + math.log1p(N * violated / len(far)) * (
                0.7 + squares[u, i] - min(far)
            ).clamp_min(0)
    assert expected > 0
    close(model.loss(Batch(given.users, given.positives, negatives)), expected)


def test_neural_matrix_factorization():
    model = wide(NeuralMatrixFactorization(U, N, D, n_layers=2))
    scores = torch.empty(U, N, dtype=torch.float64)
    for u in range(U):
        for i in range(N):
            hidden = torch.cat([model.network_users[u], model.network_items[i]])
            for layer in model.layers:
                hidden = (layer.weight @ hidden + layer.bias).relu()
            product = model.product_weight @ (model.product_users[u] * model.product_items[i])
            scores[u, i] = product + model.top.weight[0] @ hidden + model.top.bias[0]
    close(model.score(USERS, ITEMS), scores)
    with torch.no_grad():
        close(model.score(USERS, ITEMS), scores.detach())
    given = batch(3)
    own, others = scores[given.users, given.positives], scores[given.users[:, None], given.negatives]
    close(model.loss(given), -(own.sigmoid().log().sum() + (1 - others.sigmoid()).log().sum()))


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_light_graph_convolution(n_layers):
    model = wide(LightGraphConvolution(TRAIN, D, n_layers=n_layers))
    graph = torch.zeros(U + N, U + N, dtype=torch.float64)
    graph[:U, U:], graph[U:, :U] = HAS, HAS.T
    degrees = graph.sum(1).clamp_min(1).rsqrt()
    graph = degrees[:, None] * graph * degrees
    layer = total = torch.cat([model.user_table, model.item_table])
    for _ in range(n_layers):
        layer = graph @ layer
        total = total + layer
    mean = total / (n_layers + 1)
    scores = mean[:U] @ mean[U:].T
    close(model.score(USERS, ITEMS), scores)
    given = batch(1)
    own, others = scores[given.users, given.positives], scores[given.users, given.negatives[:, 0]]
    loss = -(own - others).sigmoid().log().sum()
    close(model.loss(given), loss)
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(model.loss(given), parameters), torch.autograd.grad(loss, parameters)
    ):
        close(ours, plain)


def test_propagation_is_once_a_batch_and_never_stale(monkeypatch):
    model, calls = LightGraphConvolution(TRAIN, D), []
    plain = LightGraphConvolution._propagate
    monkeypatch.setattr(LightGraphConvolution, "_propagate", lambda self: calls.append(1) or plain(self))
    adam = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    loss = model.loss(batch(1)) + model.score(USERS, ITEMS).square().sum() + model.user_vectors().sum()
    assert len(calls) == 1
    adam.zero_grad()
    loss.backward()
    before = model.score(USERS, ITEMS)
    assert len(calls) == 2, "its graph was gone with the gradient"
    adam.step()
    after = model.score(USERS, ITEMS)
    assert len(calls) == 3, "the tables have changed"
    close(after.double(), LightGraphConvolution.score(copy.deepcopy(model), USERS, ITEMS).double())
    assert not torch.equal(before, after)
    with torch.no_grad():
        first, second = model.item_vectors(), model.user_vectors()
    assert len(calls) == 5, "one for the copy, one for all calls without gradients"
    torch.testing.assert_close(second @ first.T, after.detach())


def rows_of(matrix):
    return matrix.double() / matrix.double().norm(dim=1, keepdim=True).clamp_min(1e-12)


def test_multinomial_autoencoder():
    model = wide(MultinomialAutoencoder(TRAIN, D, latent=3, dropout=0.0, kl_weight=0.4, annealing=10))

    def moments(shown):
        return (model.moments((shown @ model.input_table + model.input_bias).tanh())).split(3, dim=1)

    def scores(z):
        return model.decoder(z).tanh() @ model.item_table.T + model.item_bias

    mean, log_variance = moments(rows_of(HAS))
    close(model.score(USERS, ITEMS), scores(mean))
    model.begin_epoch(4)
    noise = EpochDropout(0)
    noise.begin(4, torch.device("cpu"))
    users = torch.tensor([0, 2])
    drawn = mean[users] + noise.normal((2, 3)).double() * log_variance[users].exp().sqrt()
    likelihood = (scores(drawn).log_softmax(1) * HAS[users]).sum()
    variance = log_variance[users].exp()
    divergence = 0.5 * (variance + mean[users].square() - 1 - log_variance[users]).sum()
    close(model.loss(batch(1)), -likelihood + 0.4 * (4 / 10) * divergence)


def test_item_autoencoder():
    model = wide(ItemAutoencoder(TRAIN, D, dropout=0.0))
    hidden = (rows_of(HAS.T) @ model.input_table + model.input_bias).tanh()
    scores = model.user_table @ hidden.T + model.user_bias[:, None]
    close(model.score(USERS, ITEMS), scores)
    model.begin_epoch(0)
    listed = torch.tensor([1, 4, 5])
    chance = scores[:, listed].sigmoid()
    expected = -torch.where(HAS[:, listed], chance, 1 - chance).log().sum()
    close(model.loss(batch(1)), expected)


@pytest.mark.parametrize("draws", ["multinomial", "item"])
def test_dropped_entries_count_for_nothing_and_kept_ones_for_more(draws):
    kind = {"multinomial": MultinomialAutoencoder, "item": ItemAutoencoder}[draws]
    model, rows = wide(kind(TRAIN, D)), TRAIN if draws == "multinomial" else TRAIN.transposed()
    factors = torch.zeros(len(rows))
    factors[0] = 2.0  # the first entry of all alone
    row = int(rows.pairs()[0][0])
    found = model.encoded(rows, factors)
    found = found[0] if isinstance(found, tuple) else found
    shown = 2 * model.input_table[rows.indices[0]] / int(rows.counts[row]) ** 0.5
    hidden = (shown + model.input_bias).tanh()
    close(found[row], model.moments(hidden)[: model.latent] if draws == "multinomial" else hidden)


def test_self_attentive_recommendation():
    histories = torch.tensor([[3, 1, 4, 1, 5, 8], [2, 6, -1, -1, -1, -1], [7, -1, -1, -1, -1, -1], [-1] * 6])
    model = wide(SelfAttentiveRecommendation(histories, N, D, length=3, n_heads=2, dropout=0.0), 0.3)

    def norm(layer, row):
        centred = row - row.mean()
        return layer.weight * centred / (centred.square().mean() + 1e-5).sqrt() + layer.bias

    def state(items):
        """After the last of at most 3 items."""
        places = range(3 - len(items), 3)
        rows = [model.item_table[i] * D**0.5 + model.place_table[p] for i, p in zip(items, places)]
        for block in model.blocks:
            read = [norm(block.norms[0], row) for row in rows]
            after = []
            for t, row in enumerate(rows):
                heads = []
                for part in (slice(0, 2), slice(2, 4)):
                    query = block.query(read[t])[part]
                    weights = torch.stack(
                        [query @ block.key(r)[part] / 2**0.5 for r in read[: t + 1]]
                    ).softmax(0)
                    heads.append(sum(w * block.value(r)[part] for w, r in zip(weights, read)))
                row = row + block.joined(torch.cat(heads))
                after.append(row + block.second(block.first(norm(block.norms[1], row)).relu()))
            rows = after
        return norm(model.norm, rows[-1])

    vectors = torch.stack([state([1, 5, 8]), state([2, 6]), state([7]), torch.zeros(D, dtype=torch.float64)])
    close(model.score(torch.arange(4), ITEMS[:4]), vectors @ model.item_table.T)
    model.begin_epoch(0)
    expected = 0.0
    for items in ([4, 1, 5, 8], [2, 6]):
        for n in range(1, len(items)):
            # The places of shown items end at the latest one that is shown to predict.
            shown = len(items) - 1
            table = model.place_table
            expected = (
                expected
                - (shifted(model, state, items[:n], shown - n) @ model.item_table.T).log_softmax(0)[items[n]]
            )
            assert model.place_table is table
    close(model.loss(Batch(torch.tensor([0, 1, 1, 2, 3]))), expected)


def shifted(model, state, items, by):
    """The state where the items stand `by` places earlier: those of a history of which they are the beginning."""
    table = model.place_table.data.clone()
    model.place_table.data[by:] = table[: len(table) - by]
    found = state(items).detach()
    model.place_table.data.copy_(table)
    return found


def test_the_divergence_counts_fully_after_annealing():
    """More from epoch to epoch until then, and fully where there is none."""

    def loss(**options):
        model = wide(MultinomialAutoencoder(TRAIN, D, latent=3, dropout=0.0, **options))
        model.begin_epoch(15)
        return model.loss(batch(1))

    whole = loss(kl_weight=0.4, annealing=0)
    close(loss(kl_weight=0.4, annealing=10), whole)
    close(loss(kl_weight=0.8, annealing=30), whole)
    assert whole > loss(kl_weight=0.0)
