"""Pictures: the only module that imports matplotlib. No display, one look for all."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#718096", "#c53030")


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Any, Any]:
    """Return a figure and its axes, as a (rows, columns) array."""
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, alpha=0.25)
    return figure, axes


def save(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and forget it."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
