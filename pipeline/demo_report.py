"""What the demo found, as a table and a picture; the only module that imports matplotlib.

    judged   (n,) event time, score, truth: the published scores of the unseen part that a label judges

The report is the demo's: the reports of the commands that it ran, by step.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.stats import STAGES

Report = dict[str, Any]
Floats = npt.NDArray[np.float64]

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BEFORE, AFTER, RANDOM, SPAM = "#9aa5b1", "#2563eb", "#d97706", "#dc2626"


class Judged(NamedTuple):
    """Scores with their truth, in order of publication."""

    ts: Floats  # seconds since the epoch
    score: Floats  # 0 to 1
    spam: npt.NDArray[np.bool_]


def judged_scores(scores: Path, unseen: Path, history: int) -> Judged:
    """Join a recorded `scores` topic with the labels among the unseen events, which follow `history` earlier ones."""
    labels: dict[str, tuple[int, int]] = {}  # the stream labels a review once
    with unseen.open("rb") as lines:
        for position, event in enumerate(map(json.loads, lines), history):
            if event["type"] == "label":
                labels[event["id"]] = position, event["label"]
    with scores.open("rb") as lines:
        found = [
            (score["ts"], score["score"], labels[score["id"]][1])
            for score in map(json.loads, lines)
            if history <= score["position"] < labels.get(score["id"], (-1, 0))[0]
        ]
    ts, score, spam = np.array(found, np.float64).reshape(-1, 3).T
    return Judged(ts, score, spam == 1)


# ---- the table ----


def table(report: Report) -> str:
    """Return the report as text for a terminal."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    before, after, served = report["before"], report["after"], f"pruned {report['served']}x"
    fast_before, fast_after = report["caught_up_before"], report["caught_up_after"]
    pruned = next(point for point in report["curve"] if point["budget"] == report["served"])["lasso"]
    yield ""
    yield f"{report['unseen']:,} unseen events, {after['labelled']:,} scores judged by labels that came later"
    yield f"  {'':36}{'unpruned':>12}{served:>12}"
    yield _row("AUROC", before["auroc"], after["auroc"], "12.4f")
    yield _row("average precision (AP)", before["ap"], after["ap"], "12.4f")
    yield _row("precision at the threshold", before["precision"], after["precision"], "12.4f")
    yield _row("recall at the threshold", before["recall"], after["recall"], "12.4f")
    yield _row("multiply-adds a target", pruned["multiply_adds_before"], pruned["multiply_adds"], "12,d")
    yield ""
    yield "as fast as it goes, micro-batches of up to 512 events"
    yield _row("events/s, log to committed scores", fast_before["events_per_s"], fast_after["events_per_s"], "12,d")
    for stage in STAGES:
        microseconds = (1e6 * one["stages"][stage]["total_s"] / one["events"] for one in (fast_before, fast_after))
        yield _row(f"stage {stage}, µs an event", *microseconds, "12.2f")
    yield ""
    yield from _live_lines(report)
    yield ""
    yield "pruning, AP on the test part of the history"
    yield f"  {'budget':<12}{'multiply-adds':>14}{'by the LASSO':>16}{'at random':>14}"
    yield f"  {'unpruned':<12}{pruned['multiply_adds_before']:>14,d}{pruned['before']['ap']:>16.4f}"
    for point in report["curve"]:
        lasso, random = point["lasso"], point["random"]
        budget = f"{point['budget']}x"
        yield f"  {budget:<12}{lasso['multiply_adds']:>14,d}{lasso['ap']:>16.4f}{random['ap']:>14.4f}"
    yield ""
    audit = report["audit"]
    yield f"audit: {audit['compared']} scores recomputed by the slow twin, largest difference {audit['max_abs_difference']:.1g}"
    yield f"picture: {report['picture']}"


def _live_lines(report: Report) -> Iterator[str]:
    live = report["live"]
    yield f"live, {report['live_events_per_s']:,} events/s offered, all scored, nothing lost at the stop"
    yield f"  {'event read to score committed, ms':36}{'p50':>9}{live['p50_ms']:>9.2f}{'p99':>9}{live['p99_ms']:>9.2f}"
    medians = [f"{stage} {live['stages'][stage]['p50_us'] / 1e3:.2f}" for stage in STAGES]
    yield f"  {'stages, ms a micro-batch (p50)':36}{'   '.join(medians)}"


def _row(name: str, before: float, after: float, form: str) -> str:
    return f"  {name:36}{before:{form}}{after:{form}}"


# ---- the picture ----


def draw(report: Report, before: Judged, after: Judged, path: Path) -> None:
    """Draw the report: ROC, pruning curve, latency, and the scores as they were published."""
    style = {
        "font.family": "DejaVu Sans", "font.size": 12, "text.color": INK, "axes.labelcolor": INK,
        "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "axes.titlesize": 14,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 12.0, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
        "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(16, 10), dpi=100, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.25, h_pad=0.2, wspace=0.04, hspace=0.06)
        figure.suptitle(_headline(report), x=0.012, ha="left", fontsize=17, fontweight="bold")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.0, 0.9))
        _draw_roc(figure.add_subplot(grid[0, 0]), report, before, after)
        _draw_curve(figure.add_subplot(grid[0, 1]), report)
        _draw_latency(figure.add_subplot(grid[0, 2]), report)
        _draw_stream(figure.add_subplot(grid[1, :]), report, after)
        figure.savefig(path, facecolor="white")


def _headline(report: Report) -> str:
    live = report["live"]
    return (
        f"{live['scored']:,} new reviews scored live by the model pruned {report['served']}x:"
        f" half within {live['p50_ms']:.1f} ms, 99 % within {live['p99_ms']:.1f} ms"
    )


def _draw_roc(axes: Axes, report: Report, before: Judged, after: Judged) -> None:
    for judged, name, colour, width in ((before, "unpruned", BEFORE, 4.5), (after, f"pruned {report['served']}x", AFTER, 2.0)):
        figures = report["before" if judged is before else "after"]
        order = np.argsort(-judged.score, kind="stable")
        hits = np.cumsum(judged.spam[order]) / judged.spam.sum()
        false_alarms = np.cumsum(~judged.spam[order]) / (~judged.spam).sum()
        label = f"{name}: AUROC {figures['auroc']:.3f}, AP {figures['ap']:.3f}"
        axes.plot([0, *false_alarms], [0, *hits], color=colour, linewidth=width, label=label)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.5, zorder=1)
    axes.set(title="ROC on the unseen part", xlabel="share of honest reviews flagged", ylabel="share of spam flagged",
             xlim=(-0.01, 1), ylim=(0, 1.01))  # fmt: skip
    axes.legend(loc="lower right")


def _draw_curve(axes: Axes, report: Report) -> None:
    whole = report["curve"][0]["lasso"]
    start = (whole["multiply_adds_before"], whole["before"]["ap"])
    for method, colour, name in (("random", RANDOM, "channels kept at random"), ("lasso", AFTER, "kept by the LASSO")):
        points = [start, *((point[method]["multiply_adds"], point[method]["ap"]) for point in report["curve"])]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2.0, marker="o", markersize=7, label=name)
    ticks = {start[0]: "unpruned"} | {p["lasso"]["multiply_adds"]: f"{p['budget']}x" for p in report["curve"]}
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), [f"{name}\n{adds:,}" for adds, name in ticks.items()])
    axes.minorticks_off()
    axes.invert_xaxis()
    values = [point[method]["ap"] for point in report["curve"] for method in ("lasso", "random")] + [start[1]]
    margin = max(0.02, max(values) - min(values))
    axes.set(title="Pruning", xlabel="multiply-adds a target", ylabel="AP on the test part of the history",
             ylim=(min(values) - margin, max(values) + margin))  # fmt: skip
    axes.legend(loc="lower left")


def _draw_latency(axes: Axes, report: Report) -> None:
    names, cumulative = list(report["latency_buckets"]), list(report["latency_buckets"].values())
    counts = np.diff([0, *cumulative])
    used = np.flatnonzero(counts)
    shown = range(max(0, used[0] - 1), min(used[-1] + 2, len(names)))
    axes.bar(range(len(shown)), 100 * counts[shown] / counts.sum(), width=0.9, color=AFTER)
    labels = [f"{1e3 * float(names[i]):g}" if names[i] != "+Inf" else "more" for i in shown]
    axes.set_xticks(np.arange(len(shown)) + 0.5, labels)
    axes.grid(axis="x", visible=False)
    axes.set(title="Latency, event read to score committed", xlabel="up to … ms (the buckets of /metrics)",
             ylabel="% of scores")  # fmt: skip
    live = report["live"]
    text = f"p50  {live['p50_ms']:.1f} ms\np99  {live['p99_ms']:.1f} ms\n{report['live_events_per_s']:,} events/s"
    axes.annotate(text, (0.03, 0.97), xycoords="axes fraction", va="top", linespacing=1.5)


def _draw_stream(axes: Axes, report: Report, judged: Judged) -> None:
    """Every judged score at its time, on a log-odds scale; spam in red, over the honest."""
    days = (judged.ts - judged.ts.min()) / 86400.0
    odds = np.log10(np.clip(judged.score, 1e-4, 1 - 1e-4) / (1 - np.clip(judged.score, 1e-4, 1 - 1e-4)))
    for mask, colour, size, alpha, name in (
        (~judged.spam, BEFORE, 7, 0.5, "honest, as a label said later"),
        (judged.spam, SPAM, 12, 0.7, "spam"),
    ):
        axes.scatter(days[mask], odds[mask], s=size, color=colour, alpha=alpha, linewidths=0, label=name)
    threshold = report["after"]["threshold"]
    axes.axhline(np.log10(threshold / (1 - threshold)), color=INK, linewidth=1.2, linestyle="--")
    ticks = [t for t in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)]
    axes.set_yticks([np.log10(t / (1 - t)) for t in ticks], [f"{t:g}" for t in ticks])
    axes.set(title="Every score at the moment it was published; campaigns stand out as red columns",
             xlabel="days of event time", ylabel="score", xlim=(0, days.max() * 1.002))  # fmt: skip
    axes.legend(loc="upper right", markerscale=2.5)
