"""A training step by hand against PyTorch's own: slope, running statistics, AdamW; inputs gathered where they lie."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm, binary_cross_entropy_with_logits

from pipeline.fit_inputs import DEAD, LEAST_DEVIATION, Inputs, Reads
from pipeline.fit_network import EPSILON, MOMENTUM, Network

WIDTHS, OUTPUTS = [6, 0, 5], [5, 3, 0]  # pruning may leave a branch no inputs, or no outputs
ROWS = 50


def made(members: int, dropout: float) -> tuple[Network, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.SFC64(3))
    network = Network(WIDTHS, OUTPUTS, members, dropout, rng)
    x = rng.normal(size=(ROWS, sum(WIDTHS))).astype(np.float32)
    return network, x, rng.normal(size=ROWS).astype(np.float32), rng.uniform(size=ROWS).astype(np.float32)


class Twin:
    """The same network in PyTorch, in float64."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.values = torch.tensor(network.values.flat, dtype=torch.float64, requires_grad=True)
        self.mean, self.var = torch.zeros(len(network.own)).double(), torch.ones(len(network.own)).double()

    def loss(self, x, base, wanted, kept):
        sizes = [k * o for k, o in zip(WIDTHS, OUTPUTS, strict=True)]
        hidden, members = self.network.own.shape
        *weights, classifier, bias, constant = torch.split(self.values, [*sizes, hidden * members, hidden, members])
        blocks = torch.split(torch.tensor(x, dtype=torch.float64), WIDTHS, dim=1)
        outs = [b @ w.reshape(b.shape[1], o) for b, w, o in zip(blocks, weights, OUTPUTS, strict=True)]
        h = torch.relu(torch.cat(outs, dim=1) + bias)
        h = batch_norm(h, self.mean, self.var, training=True, momentum=MOMENTUM, eps=EPSILON)
        matrix = classifier.reshape(hidden, members) * torch.tensor(self.network.own)
        said = torch.tensor(base)[:, None] + (h * torch.tensor(kept)) @ matrix + constant
        return binary_cross_entropy_with_logits(said, torch.tensor(wanted).double()[:, None].expand_as(said))


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.25])
def test_the_slope_and_the_running_statistics_are_pytorchs(members, dropout):
    network, x, base, wanted = made(members, dropout)
    shape = ROWS, sum(OUTPUTS)
    drawn = np.frombuffer(copy.deepcopy(network._rng).bytes(ROWS * sum(OUTPUTS)), np.uint8).reshape(shape)
    twin = Twin(network)
    network.find_slope(x, base, wanted)
    twin.loss(x, base, wanted, (drawn >= dropout * 256) / (1 - dropout)).backward()
    assert np.abs(network.slope.branches[0]).max() > 1e-3
    np.testing.assert_allclose(network.slope.flat, twin.values.grad, atol=1e-6)
    np.testing.assert_allclose(network.running_mean, twin.mean, atol=1e-6)
    np.testing.assert_allclose(network.running_var, twin.var, atol=1e-6)


def test_steps_are_those_of_pytorchs_adamw():
    network, x, base, wanted = made(1, 0.0)
    first = network.values.flat.copy()
    parts = [torch.tensor(part) for part in np.split(first, [network.values.decayed])]
    groups = [{"params": [part], "weight_decay": decay} for part, decay in zip(parts, (0.3, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(5):
        network.find_slope(x, base, wanted)
        for part, slope in zip(parts, np.split(network.slope.flat, [network.values.decayed]), strict=True):
            part.grad = torch.tensor(slope)
        optimizer.step()
        network.step(0.01, 0.3)
    np.testing.assert_allclose(network.values.flat, torch.cat(parts), atol=1e-6)
    assert np.abs(network.values.flat - first).max() > 0.01


def test_members_are_networks_of_their_own():
    """What one says depends on no weight of another."""
    network, x, _, _ = made(2, 0.0)
    before = network.logits(x)
    network.values.branches[0][:, network.own[:5, 0] == 1] += 1.0
    after = network.logits(x)
    assert (after[:, 1] == before[:, 1]).all()
    assert (after[:, 0] != before[:, 0]).any()


@pytest.mark.parametrize("whole", [True, False])
def test_inputs_are_gathered_where_they_lie_and_standardised_by_the_training_part(whole):
    rng = np.random.default_rng(0)
    own, means = rng.normal(3, 2, (60, 4)).astype(np.float32), rng.normal(size=(60, 2, 4)).astype(np.float32)
    own[:, 1], means[:, 1, 2] = 100.1, 5 + 1e-3 * means[:, 1, 2]  # one never varies, the other hardly
    rows = rng.permutation(60)[:40]
    keeps = [np.array(keep, np.int32) for keep in ([range(4)] * 3 if whole else ([0, 1, 3], [], [1, 2]))]
    inputs = Inputs(Reads(own, means, rows, keeps), slice(0, 30))
    read = [own[rows][:, keeps[0]], means[rows][:, 0, keeps[1]], means[rows][:, 1, keeps[2]]]
    blocks = np.hstack(read).astype(np.float64)
    mean, deviation = blocks[:30].mean(axis=0), blocks[:30].std(axis=0)
    assert deviation[1] < DEAD and deviation[-2 + (not whole)] < LEAST_DEVIATION
    expected = (blocks - mean) / np.where(deviation < DEAD, np.inf, np.maximum(deviation, LEAST_DEVIATION))
    chosen = np.array([39, 0, 7])
    np.testing.assert_allclose(
        inputs.of(chosen, np.empty((3, blocks.shape[1]), np.float32)), expected[chosen], atol=1e-5
    )
    batches = np.concatenate([batch.copy() for batch in inputs.batches(slice(5, 40))])
    np.testing.assert_allclose(batches, expected[5:], atol=1e-5)
