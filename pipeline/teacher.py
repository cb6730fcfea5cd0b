"""What layers learn where labels are few: mostly what boosted trees say, which never saw the label in question.

A label is 0 or 1, of a review that was, say, likely to be spam: a small network learns more from "likely" than from
either (distillation: Hinton et al., arXiv 1503.02531). The teacher are trees on the raw channels of a target, without
its neighbours. Each training sample is judged by trees that were fitted on the other folds; so nothing is learnt by
heart, and no event after the training part is read. What is served stays one small network.

Of many labels a network learns more than from such trees: validation has none on New York, with 215,000 labels, and
has preferred one, or been undecided, on Chicago, with 40,000 (docs/results.md, "What was tried"). Where labels are very
few it cannot tell, being of the same few nodes; a teacher is the safer choice then.

n samples, K channels.
"""

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

Floats = npt.NDArray[np.float32]
FOLDS = 3


def soften(truth: npt.NDArray[np.int8], x: Floats, train: slice, share: float, seed: int) -> Floats:
    """Return what the training part learns, as probabilities: `share` of the trees' word, the rest of the label.

    truth, x  (n,) labels, (n, K) channels; only those of `train` are read. Too few of a class for `FOLDS`: bare labels
    """
    wanted = truth.astype(np.float32)
    labels = truth[train]
    if share and np.bincount(labels, minlength=2).min() >= FOLDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        said = cross_val_predict(_trees(seed), x[train], labels, cv=folds, method="predict_proba")[:, 1]
        wanted[train] = (1.0 - share) * wanted[train] + share * said
    return wanted


def _trees(seed: int) -> HistGradientBoostingClassifier:
    """Return trees of the size that suits the reviews; 80 rounds end before they learn noise."""
    return HistGradientBoostingClassifier(
        learning_rate=0.1, max_leaf_nodes=15, l2_regularization=1.0, max_features=0.3, max_iter=80,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
