"""Pictures: the only module that imports matplotlib. No display, one look for all."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the backend is chosen first
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#718096", "#c53030")


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Any, Any]:
    """Return a figure and its axes, as a (rows, columns) array."""
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, alpha=0.25)
    return figure, axes


def new_mosaic(rows: list[Any], width: float, height: float, heights: tuple[float, ...]) -> tuple[Any, Any]:
    """Return a figure and its axes by name, as `rows` of names lay them out; a name that stands there twice spans."""
    return plt.subplot_mosaic(rows, figsize=(width, height), height_ratios=heights, layout="constrained")


def by_factors(axis: Any) -> None:
    """Let equal factors be equally far along x; its ticks read 10k, 20k, 50k."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())


def styled(settings: dict[Any, Any]) -> AbstractContextManager[None]:
    """Return a context in which figures are made and saved with other settings of matplotlib."""
    return matplotlib.rc_context(settings)


def save(figure: Any, path: Path, dpi: int = 110) -> Path:
    """Write the figure as PNG and forget it."""
    if figure.get_layout_engine() is None:  # none has laid it out yet
        figure.tight_layout()
    figure.savefig(path, dpi=dpi, pil_kwargs={"optimize": True})
    plt.close(figure)
    return path
