"""Pictures of the live page, to look at: `python tests/page_pictures.py FOLDER [MINUTES]`.

A model is trained on the beginning of a synthetic stream, and serves what comes then, at an uneven pace, for some
minutes. The folder gets the page empty, filled, restoring and without an answer, on a desk and on a phone, light and
dark; docs/page.png is `filled-desktop-light.png`.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from browsers import SCHEMES, SIZES, chromium, opened
from live import Live, serving
from playwright.sync_api import Browser

from pipeline.cli import main
from producers.synthetic import SyntheticStream

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
HISTORY, EVENTS_PER_SECOND = 40_000, 250


def take(folder: Path, minutes: float) -> None:
    """Make all pictures."""
    count = HISTORY + round(60 * minutes * EVENTS_PER_SECOND)
    (last,) = islice(SyntheticStream(seed=7, start_ts=0.0), count, count + 1)
    stream = iter(SyntheticStream(seed=7, start_ts=time.time() + 60 * minutes - json.loads(last)["ts"]))  # ends now
    history = list(islice(stream, HISTORY))
    with tempfile.TemporaryDirectory() as place, chromium() as browser:
        work = Path(place)
        model = trained(work, history)
        with serving(work, model) as live:
            pictures(browser, live, folder, "empty", "Live", sizes=["phone"])
            feed(live, stream, minutes)
            pictures(browser, live, folder, "filled", "Live")
            document = live.status() | {"ready": False}
            document["partitions"][0] |= {"state": "restoring", "restored": 0.43}
            pictures(browser, live, folder, "restoring", "Restoring", document, sizes=["phone"])
            with opened(browser, live.url) as one:
                one.wait_for_state("Live")
                live.process.kill()
                one.wait_for_state("No answer")
                one.page.screenshot(path=folder / "no-answer-desktop-light.png", full_page=True)


def trained(folder: Path, history: Sequence[bytes]) -> Path:
    events, model, small = folder / "history.jsonl", folder / "model", folder / "model4"
    events.write_bytes(b"\n".join(history) + b"\n")
    assert main(["train", str(events), "--schema", str(SCHEMA), "--out", str(model)]) == 0
    assert main(["prune", str(model), str(events), "--budget", "4", "--out", str(small)]) == 0
    return small


def feed(live: Live, stream: Iterator[bytes], minutes: float) -> None:
    began = time.time()
    while (passed := time.time() - began) < 60 * minutes:
        pace = EVENTS_PER_SECOND * (1 + 0.4 * math.sin(passed / 40))
        live.append(list(islice(stream, round(pace / 10))))
        time.sleep(0.1)
    live.wait_until_scored()


def pictures(
    browser: Browser, live: Live, folder: Path, name: str, state: str, document: object = None, sizes=tuple(SIZES)
) -> None:
    for size in sizes:
        for scheme in SCHEMES:
            with opened(browser, live.url, size, scheme, document) as one:
                one.wait_for_state(state)
                one.page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=size == "phone")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    take(target, float(sys.argv[2]) if len(sys.argv) > 2 else 11.0)
