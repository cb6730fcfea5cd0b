"""GraphSAGE by DGL on the explicit graph with past edges: the usual way to do what graphsieve does with running sums.

    h1 = concat_b norm(relu(in_b · W1_b + c1_b)), in_self = x, in_r = mean of x over the past neighbours by r
    h2 = the same over h1;   logit = h2 · w + c

Trained end to end on the whole graph of the training part: full batches, no sampler. Edges lead forward in time and
inputs are as of arrival, so one pass over the whole graph gives every score without a look into the future.
Source: GraphSAGE-mean with concatenation, as in GCNP (Zhou et al., PVLDB 14(9), 2021), section 2; a branch a relation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.experiments.baselines.information import Information
from pipeline.experiments.baselines.past_graph import PastEdges, past_edges
from pipeline.experiments.baselines.trees import standardised
from pipeline.experiments.message_passing import graph_of, mean_over_neighbours
from pipeline.model import probability

Floats = npt.NDArray[np.float32]
HIDDEN = 16  # a branch, both layers: as our model's
DROPOUT = 0.3
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-2
STEPS = 120  # each on the whole training graph
EVERY = 5  # steps between two looks at validation
PATIENCE = 4  # looks without a better one


class _Layer(nn.Module):
    """One branch for self and one for each graph; each projects first, so that what moves along edges is narrow."""

    def __init__(self, inputs: int, graphs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(inputs, HIDDEN) for _ in range(1 + graphs))
        self.norm = nn.BatchNorm1d(HIDDEN * (1 + graphs), momentum=0.5, affine=False)  # few steps, each on all samples

    def forward(self, graphs: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
        own, *others = (branch(x) for branch in self.branches)
        means = [mean_over_neighbours(graph, projected) for graph, projected in zip(graphs, others, strict=True)]
        hidden: torch.Tensor = self.norm(torch.relu(torch.cat([own, *means], dim=1)))
        return hidden


class _Sage(nn.Module):
    def __init__(self, inputs: int, graphs: int) -> None:
        super().__init__()
        self.first, self.second = _Layer(inputs, graphs), _Layer(HIDDEN * (1 + graphs), graphs)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HIDDEN * (1 + graphs), 1)

    def forward(self, graphs: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.first(graphs, x))
        logits: torch.Tensor = self.classifier(self.dropout(self.second(graphs, hidden)))
        return logits.squeeze(1)


def fit_sage(info: Information, channels: int, most: int, seed: int) -> Floats:
    """Train on the first `channels` raw channels and at most `most` neighbours a relation; return the later scores."""
    torch.manual_seed(seed)
    samples, boundary = info.history.sample_entry, int(info.history.sample_entry[info.split.validation.start])
    edges = past_edges(info.history, most)
    x = torch.from_numpy(standardised(info.x[:, :channels], slice(0, boundary)))
    whole = [_graph(edge, len(x)) for edge in edges]
    past = [_graph(edge.before(boundary), boundary) for edge in edges]
    model = _Sage(x.shape[1], len(edges))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    chosen = torch.from_numpy(samples[info.split.train])
    truth = torch.from_numpy(info.truth[info.split.train].astype(np.float32))
    loss_of = nn.BCEWithLogitsLoss()
    best_ap, best, worse = -1.0, np.zeros(0, np.float32), 0
    for step in range(1, STEPS + 1):
        model.train()
        optimizer.zero_grad()
        loss = loss_of(model(past, x[:boundary])[chosen], truth)
        loss.backward()
        optimizer.step()
        if step % EVERY:
            continue
        scores = _later_scores(model, whole, x, samples[info.later])
        ap = info.validation_ap(scores)
        best_ap, best, worse = (ap, scores, 0) if ap > best_ap else (best_ap, best, worse + 1)
        if worse == PATIENCE:
            break
    return best


def _later_scores(model: nn.Module, graphs: Sequence[Any], x: torch.Tensor, entries: npt.NDArray[np.int64]) -> Floats:
    model.eval()
    with torch.no_grad():
        return probability(model(graphs, x)[torch.from_numpy(entries)].numpy())


def _graph(edges: PastEdges, nodes: int) -> Any:
    return graph_of(edges.source, edges.target, nodes)
