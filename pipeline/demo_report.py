"""What the demo found, as a table and a picture.

    judged   (n,) event time, score, truth: the published scores of the unseen part that a label judges

The report is the demo's: the reports of the commands that it ran, by step.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.figure import new_mosaic, save, styled
from pipeline.stats import STAGES

Report = dict[str, Any]
Floats = npt.NDArray[np.float64]

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
GREY, BLUE, ORANGE, RED = "#9aa5b1", "#2563eb", "#d97706", "#dc2626"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 12, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
    "xtick.color": FAINT, "ytick.color": FAINT, "axes.titlesize": 14, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 12.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True, "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.2, "figure.constrained_layout.h_pad": 0.15,
    "figure.constrained_layout.wspace": 0.03, "figure.constrained_layout.hspace": 0.05,
}  # fmt: skip


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
    yield "as fast as it goes, in full micro-batches"
    yield _row("events/s, log to committed scores", fast_before["events_per_s"], fast_after["events_per_s"], "12,d")
    for stage in STAGES:
        spent = [1e6 * one["stages"][stage]["total_s"] / one["events"] for one in (fast_before, fast_after)]
        yield _row(f"stage {stage}, µs an event", spent[0], spent[1], "12.2f")
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
    difference = f"{audit['max_abs_difference']:.1g}"
    yield f"audit: {audit['compared']} scores recomputed by the slow twin, largest difference {difference}"
    yield f"picture: {report['picture']}"


def _live_lines(report: Report) -> Iterator[str]:
    live = report["live"]
    stopped = f"stopped by SIGTERM at position {live['position']:,} of {report['events']:,}"
    yield f"live, {report['live_events_per_s']:,} events/s on average; {stopped}"
    yield f"  {'event read to score committed, ms':36}{'p50':>6}{live['p50_ms']:6.1f}{'p99':>6}{live['p99_ms']:6.1f}"
    for stage in STAGES:
        yield f"  {f'stage {stage}, ms a micro-batch':36}{'p50':>6}{live['stages'][stage]['p50_us'] / 1e3:6.2f}"


def _row(name: str, before: float, after: float, form: str) -> str:
    return f"  {name:36}{before:{form}}{after:{form}}"


# ---- the picture ----


def draw(report: Report, before: Judged, after: Judged, path: Path) -> None:
    """Draw the report: ROC, pruning curve, latency, and the scores as they were published."""
    with styled(STYLE):
        figure, axes = new_mosaic([["roc", "curve", "latency"], ["stream"] * 3], 16.0, 10.0, heights=(1.0, 0.95))
        figure.suptitle(_headline(report), x=0.012, ha="left", fontsize=17, fontweight="bold")
        _draw_roc(axes["roc"], report, before, after)
        _draw_curve(axes["curve"], report)
        _draw_latency(axes["latency"], report)
        _draw_stream(axes["stream"], after, report["after"]["threshold"])
        save(figure, path, dpi=100)


def _headline(report: Report) -> str:
    live = report["live"]
    return (
        f"{live['scored']:,} reviews scored as they came, by the model pruned {report['served']}x:"
        f" half within {live['p50_ms']:.1f} ms, 99 % within {live['p99_ms']:.1f} ms"
    )


def _draw_roc(axes: Any, report: Report, before: Judged, after: Judged) -> None:
    served = f"pruned {report['served']}x"
    for judged, key, name, colour, width in (
        (before, "before", "unpruned", GREY, 5.0),
        (after, "after", served, BLUE, 2.0),
    ):
        falling = judged.spam[np.argsort(-judged.score, kind="stable")]
        false_alarms, hits = np.cumsum(~falling) / (~falling).sum(), np.cumsum(falling) / falling.sum()
        label = f"{name}: AUROC {report[key]['auroc']:.3f}, AP {report[key]['ap']:.3f}"
        axes.plot(false_alarms, hits, color=colour, linewidth=width, label=label)
    axes.set(title="ROC on the unseen part", xscale="log", xlim=(1e-3, 1.0), ylim=(0.0, 1.02))
    axes.set(xlabel="share of honest reviews flagged", ylabel="share of spam flagged")
    axes.set_xticks([1e-3, 1e-2, 1e-1, 1.0], ["0.1 %", "1 %", "10 %", "100 %"])
    axes.minorticks_off()
    axes.legend(loc="lower right")


def _draw_curve(axes: Any, report: Report) -> None:
    curve, whole = report["curve"], report["curve"][0]["lasso"]
    start = (whole["multiply_adds_before"], whole["before"]["ap"])
    for method, colour, name in (("random", ORANGE, "channels chosen at random"), ("lasso", BLUE, "by the LASSO")):
        points = [start, *((point[method]["multiply_adds"], point[method]["ap"]) for point in curve)]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2.0, marker="o", markersize=7, label=name)
    ticks = {start[0]: "unpruned"} | {point["lasso"]["multiply_adds"]: f"{point['budget']}x" for point in curve}
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), [f"{name}\n{adds:,}" for adds, name in ticks.items()])
    axes.minorticks_off()
    axes.invert_xaxis()
    lowest = min(point[method]["ap"] for point in curve for method in ("lasso", "random"))
    axes.set_ylim(min(lowest, start[1] - 0.05) - 0.01, start[1] + 0.02)  # so wide that noise looks like no cliff
    axes.set(title="Pruning", xlabel="multiply-adds a target", ylabel="AP on the test part of the history")
    axes.legend(loc="lower left")


def _draw_latency(axes: Any, report: Report) -> None:
    names = list(report["latency_buckets"])
    shares = np.diff([0, *report["latency_buckets"].values()]) / max(report["latency_buckets"]["+Inf"], 1)
    used = np.flatnonzero(shares >= 0.001)
    shown = np.arange(max(0, used[0] - 1), min(used[-1] + 2, len(names)))
    bars = axes.bar(shown, 100 * shares[shown], width=0.94, color=BLUE)
    axes.bar_label(
        bars, [f"{100 * share:.0f} %" if share >= 0.005 else "" for share in shares[shown]], padding=3, color=FAINT
    )
    ends = ["∞" if names[i] == "+Inf" else f"{1e3 * float(names[i]):g}" for i in shown]
    axes.set_xticks(
        shown + 0.5, ends, rotation=90 if len(shown) > 10 else 0
    )  # a bar's right end is the latency that its scores stay within
    axes.grid(axis="x", visible=False)
    axes.set(title="Latency, read to committed", ylim=(0, 112 * shares.max()))
    axes.set(xlabel="ms, the buckets of /metrics", ylabel="% of scores")


def _draw_stream(axes: Any, judged: Judged, threshold: float) -> None:
    """Every judged score at its time, in log-odds; spam over the rest."""
    days = (judged.ts - judged.ts.min()) / 86400.0
    for spam, colour, size, name in ((False, GREY, 9, "honest"), (True, RED, 14, "spam")):
        chosen = judged.spam == spam
        odds = _log_odds(judged.score[chosen])
        axes.scatter(days[chosen], odds, s=size, color=colour, linewidths=0, label=name)
    height = float(_log_odds(np.array(threshold)))
    axes.axhline(height, color=INK, linewidth=1.2, linestyle=(0, (6, 4)), label="threshold")
    ticks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    axes.set_yticks(_log_odds(ticks), [f"{tick:g}" for tick in ticks])
    axes.set(title="Scores as published, coloured by the label that came later: campaigns are columns")
    axes.set(xlabel="days of event time (to the right fewer labels have come yet)", ylabel="score")
    axes.set(xlim=(-0.02, days.max() + 0.02))
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, markerscale=2.5, borderaxespad=0.2)


def _log_odds(score: Floats) -> Floats:
    clipped = np.clip(score, 1e-5, 1.0 - 1e-5)
    return np.asarray(np.log(clipped / (1.0 - clipped)))
