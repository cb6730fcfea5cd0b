"""What a reader compares, from the rows alone.

figures   every figure of the unpruned model and of LASSO's, stream by stream
loss      what pruning costs, paired by seed: every stream, delay and width
methods   how the channels were chosen, before and after fine-tuning, where several methods were tried
small     pruned against trained small, at about the same multiply-adds
kept      the input channels that pruning keeps most often, by branch
"""

from collections.abc import Iterable, Sequence

from pipeline.experiments.run import Key
from pipeline.experiments.summary import Row, select
from pipeline.page import Table

PLACE = ("data", "delay", "width")
OWN_DELAY = "own"  # a stream's labels come when they came
FIGURES = ("auroc", "ap", "precision_top1", "precision_top5", "recall_at_fpr1", "brier")
HEADINGS = ("AUROC", "AP", "precision, top 1 %", "top 5 %", "recall at 1 % FPR", "Brier")
MOST_KEPT = 6  # channels of a branch that the table names


def tables(rows: Sequence[Row]) -> list[Table]:
    return [figures(rows), loss(rows), methods(rows), small(rows), kept(rows)]


def models(rows: Iterable[Row]) -> list[Row]:
    """The rows that are of a model's figures, not of curves or channels."""
    return [row for row in rows if not {"curve", "kept"} & row.key.keys()]


def places(rows: Iterable[Row]) -> list[Key]:
    """The streams, delays and widths, in the order in which they come."""
    found: list[Key] = []
    for row in rows:
        place = {name: row.key[name] for name in PLACE}
        if place not in found:
            found.append(place)
    return found


def figures(rows: Sequence[Row]) -> Table:
    header = ["stream", "labels after", "width", "model", *HEADINGS, "multiply-adds"]
    chosen = [row for row in models(rows) if row.key["method"] == "unpruned" or _is_default(row)]
    cells = [
        [*_place(row.key), _name(row), *(_text(row, name) for name in FIGURES), _work(row)]
        for place in places(rows) for row in select(chosen, **place)
    ]  # fmt: skip
    return Table("figures", header, cells)


def loss(rows: Sequence[Row]) -> Table:
    header = ["stream", "labels after", "width", "pruned", "AUROC lost", "AP lost", "multiply-adds"]
    chosen = [row for row in models(rows) if row.key.get("stage") == "tuned" and row.key["method"] == "lasso"]
    cells = [
        [*_place(row.key), f"{_times(row)} {row.key['scheme']}", _text(row, "auroc_lost", 4), _text(row, "ap_lost", 4),
         _work(row)]
        for row in chosen
    ]  # fmt: skip
    return Table("loss", header, cells)


def methods(rows: Sequence[Row]) -> Table:
    header = ["stream", "width", "scheme", "budget", "method", "AP lost, refitted", "AP lost, tuned",
              "AUROC lost, refitted", "AUROC lost, tuned", "seconds"]  # fmt: skip
    tuned = [row for row in models(rows) if row.key.get("stage") == "tuned"]
    cells = []
    for row in tuned:
        one = {name: row.key[name] for name in (*PLACE, "scheme", "budget")}
        if len(select(tuned, **one)) < 2:
            continue
        (before,) = select(models(rows), **(row.key | {"stage": "refitted"}))
        lost = [_text(r, f"{name}_lost", 4) for name in ("ap", "auroc") for r in (before, row)]
        cells.append([str(row.key["data"]), str(row.key["width"]), str(row.key["scheme"]), _times(row),
                      str(row.key["method"]), *lost, _text(row, "pruning_seconds", 2)])  # fmt: skip
    return Table("methods", header, cells)


def small(rows: Sequence[Row]) -> Table:
    header = ["stream", "labels after", "width", "budget", "pruned: multiply-adds", "AUROC", "AP",
              "trained small: multiply-adds", "AUROC", "AP"]  # fmt: skip
    cells = []
    for row in models(rows):
        if row.key["method"] != "small":
            continue
        place = {name: row.key[name] for name in (*PLACE, "budget")}
        for pruned in filter(_is_default, select(models(rows), **place)):
            both = [text for r in (pruned, row) for text in (_work(r), _text(r, "auroc"), _text(r, "ap"))]
            cells.append([*_place(row.key), _times(row), *both])
    return Table("small", header, cells)


def kept(rows: Sequence[Row]) -> Table:
    header = ["stream", "width", "budget", "branch", "channels kept most often, and in what share of the seeds"]
    cells = []
    for row in rows:
        if "kept" not in row.key or row.key["scheme"] != "batched":
            continue
        often = sorted(row.figures.items(), key=lambda item: -item[1].mean)[:MOST_KEPT]
        said = ", ".join(f"{name} {share.mean:.0%}" for name, share in often if share.mean)
        cells.append([str(row.key["data"]), str(row.key["width"]), _times(row), str(row.key["kept"]), said or "none"])
    return Table("kept", header, cells)


def _is_default(row: Row) -> bool:
    """Pruned as `prune` does it unless told otherwise."""
    return all(row.key.get(name) == value for name, value in (
        ("method", "lasso"), ("scheme", "batched"), ("stage", "tuned")
    ))  # fmt: skip


def _place(key: Key) -> list[str]:
    return [str(key[name]) for name in PLACE]


def _name(row: Row) -> str:
    return f"pruned {_times(row)}" if "budget" in row.key else str(row.key["method"])


def _times(row: Row) -> str:
    return f"{row.key['budget']:g}x"


def _text(row: Row, name: str, digits: int = 3) -> str:
    return row.figures[name].text(digits) if name in row.figures else "-"


def _work(row: Row) -> str:
    return f"{row.figures['multiply_adds'].mean:,.0f}"
