"""A multi-layer perceptron on the columns that trees read: two hidden layers, all columns in one block."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.experiments.baselines.information import Information, best_by_validation
from pipeline.experiments.baselines.trees import standardised
from pipeline.model import probability

Floats = npt.NDArray[np.float32]
MLP_GRID: dict[str, tuple[float, ...]] = {"width": (64.0,), "dropout": (0.5, 0.2), "weight_decay": (0.1, 1.0)}
LEARNING_RATE = 1e-3
BATCH = 1024
EPOCHS = 40
PATIENCE = 6  # epochs without a better validation average precision


def fit_mlp(info: Information, x: Floats, options: dict[str, float], seed: int) -> Floats:
    """Train on the training part of `x`; return the scores of the best epoch.  # (n, width) -> (later,)"""
    torch.manual_seed(seed)
    train, inputs = info.split.train, torch.from_numpy(standardised(x, info.split.train))
    truth = torch.from_numpy(info.truth.astype(np.float32))
    model = _network(x.shape[1], int(options["width"]), options["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=options["weight_decay"])
    loss_of = nn.BCEWithLogitsLoss()
    best_ap, best, worse = -1.0, np.zeros(0, np.float32), 0
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.split(torch.randperm(train.stop), BATCH):
            if len(chosen) == 1:  # the normalisation of one sample is undefined
                continue
            optimizer.zero_grad()
            loss = loss_of(model(inputs[chosen]).squeeze(1), truth[chosen])
            loss.backward()
            optimizer.step()
        scores = _scores(model, inputs[info.later])
        ap = info.validation_ap(scores)
        best_ap, best, worse = (ap, scores, 0) if ap > best_ap else (best_ap, best, worse + 1)
        if worse == PATIENCE:
            break
    return best


def choose_mlp(info: Information, x: Floats) -> dict[str, float]:
    """Choose from `MLP_GRID` by validation."""
    return best_by_validation(MLP_GRID, lambda options: info.validation_ap(fit_mlp(info, x, options, seed=0)))


def _network(inputs: int, width: int, dropout: float) -> nn.Module:
    def layer(i: int) -> list[nn.Module]:
        return [nn.Linear(i, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(dropout)]

    return nn.Sequential(*layer(inputs), *layer(width), nn.Linear(width, 1))


def _scores(model: nn.Module, inputs: torch.Tensor) -> Floats:
    model.eval()
    with torch.no_grad():
        return probability(model(inputs).squeeze(1).numpy())
