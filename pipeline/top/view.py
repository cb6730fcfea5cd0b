"""What `graphsieve top` draws: lines of styled words, cut to the terminal's width and height.

graphsieve top   10:00:00   every 2 s   1 of 1 consumers answer
http://127.0.0.1:9108   reviews 875b4077e61a
  now      1,234 scores/s   3.1 % spam   0 dead letters/s   1,300 events/s   41 a batch
  ...
"""

import math
from collections.abc import Sequence

from pipeline.report_text import byte_text, counted
from pipeline.top.scrape import Partition, Seen

Span = tuple[str, str]  # text, style
Spans = list[Span]

PLAIN, BOLD, FAINT, GOOD, WARN, BAD = "", "1", "2", "32", "33", "31;1"  # ANSI's numbers
STATES = {"live": GOOD, "restoring": WARN, "failed": BAD, "lost": WARN, "released": FAINT}
FULL = 0.9  # of the memory
UNKNOWN = "-"
COLUMNS = ("partition", "state", "lag", "events/s", "events' age", "snapshot", "restored")
WIDTHS = (9, 9, 12, 9, 11, 9, 8)


def frame(consumers: Sequence[Seen], heading: str, width: int, height: int, coloured: bool) -> list[str]:
    """Return the lines of one picture: at most `height` of at most `width` characters."""
    answering = sum(not one.error for one in consumers)
    counted = (f"{answering} of {len(consumers)} consumers answer", PLAIN if answering == len(consumers) else BAD)
    lines: list[Spans] = [[("graphsieve top", BOLD), (f"   {heading}   ", PLAIN), counted]]
    if len(consumers) > 1:
        lines.append(_all(consumers))
    for one in consumers:
        lines += [[], *_consumer(one)]
    if len(lines) > height:
        lines = [*lines[: height - 1], [(f"... {len(lines) - height + 1} more lines; make the window higher", FAINT)]]
    return [_drawn(line, width, coloured) for line in lines]


def _all(consumers: Sequence[Seen]) -> Spans:
    """Sum up what answers."""
    there = [one for one in consumers if not one.error]
    lags = [partition.lag for one in there for partition in one.partitions if partition.lag is not None]
    live = sum(partition.state == "live" for one in there for partition in one.partitions)
    scores = [one.scores_per_second for one in there if one.scores_per_second is not None]
    rate = _rate(sum(scores) if scores else None)
    return [(f"  together {rate} scores/s   {counted(live, 'partition')} live   {_count(sum(lags))} wait", PLAIN)]


def _consumer(one: Seen) -> list[Spans]:
    if one.error:
        return [[(_clean(one.url), BOLD), ("   away: ", BAD), (_clean(one.error), BAD)]]
    p = {name: _seconds(value) for name, value in one.latency_seconds.items()}
    stages = "  ".join(f"{name} {_seconds(value)}" for name, value in one.stage_seconds.items())
    latency = "   ".join(f"{name} {value}" for name, value in p.items())
    now = (
        f"{_rate(one.scores_per_second)} scores/s   {_percent(one.spam_share)} spam   "
        f"{_rate(one.dead_letters_per_second)} dead letters/s   {_rate(one.micro_batch_events)} a batch"
    )
    failures = (f"{_count(one.snapshot_failures)} failed", BAD if one.snapshot_failures else PLAIN)
    return [
        [(_clean(one.url), BOLD), (f"   {_clean(one.schema)} {_clean(one.model)}", FAINT)],
        [("  now      ", FAINT), (now, PLAIN)],
        [("  latency  ", FAINT), (latency, PLAIN)],
        [("  stages   ", FAINT), (stages, PLAIN)],
        _memory(one),
        [
            ("  since    ", FAINT),
            (f"{_count(one.rebalances)} rebalances   {_count(one.producers_replaced)} producers replaced   ", PLAIN),
            (f"{_count(one.snapshots)} snapshots, ", PLAIN), failures,
        ],
        [(_row(COLUMNS), FAINT)],
        *(_partition(partition) for partition in one.partitions),
    ]  # fmt: skip


def _memory(one: Seen) -> Spans:
    share = None if one.resident_bytes is None or not one.limit_bytes else one.resident_bytes / one.limit_bytes
    used = f"{_bytes(one.resident_bytes)} of {_bytes(one.limit_bytes)} ({_percent(share)})"
    state = f"   state {_bytes(one.state_bytes)}   {_count(one.rows)} rows   {_count(one.in_flight)} in flight"
    return [("  memory   ", FAINT), (used, BAD if share is not None and share > FULL else PLAIN), (state, PLAIN)]


def _partition(one: Partition) -> Spans:
    cells = (
        one.partition, one.state, _count(one.lag), _rate(one.per_second), _age(one.event_time_lag),
        _age(one.snapshot_age), _percent(one.restored),
    )  # fmt: skip
    row = _row([_clean(cell) for cell in cells])
    start, end = 2 + WIDTHS[0] + 1, 2 + WIDTHS[0] + 1 + WIDTHS[1]
    return [(row[:start], PLAIN), (row[start:end], STATES.get(one.state, PLAIN)), (row[end:], PLAIN)]


def _row(cells: Sequence[str]) -> str:
    """Partition and state to the left, numbers to the right."""
    padded = [
        f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}"
        for i, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return "  " + " ".join(padded)


def _drawn(line: Spans, width: int, coloured: bool) -> str:
    drawn, left = "", width
    for text, style in line:
        text = text[:left]
        left -= len(text)
        drawn += f"\033[{style}m{text}\033[0m" if coloured and style and text else text
    return drawn


def _clean(text: str) -> str:
    """Whoever answers at that address may answer anything: no control character reaches the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# ---- numbers as people read them ----


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _count(value: float | None) -> str:
    return UNKNOWN if value is None or not _known(value) else f"{value:,.0f}"


def _rate(value: float | None) -> str:
    if value is None or not _known(value):
        return UNKNOWN
    return f"{value:.2g}" if 0 < value < 10 else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    if share is None or not _known(share):
        return UNKNOWN
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def _bytes(value: float | None) -> str:
    return UNKNOWN if value is None or not _known(value) else byte_text(value)


def _seconds(value: float | None) -> str:
    """Return a short time: from microseconds to seconds."""
    if value is None or not _known(value):
        return UNKNOWN
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3)) if value >= scale), ("us", 1e-6))
    return f"{value / scale:.1f} {unit}" if value < 10 * scale else f"{value / scale:.0f} {unit}"


def _age(value: float | None) -> str:
    """Return a long time: from seconds to days."""
    if value is None or not _known(value):
        return UNKNOWN
    for unit, scale in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * scale:
            return f"{value / scale:,.0f} {unit}"
    return f"{max(0.0, value):.0f} s"
