"""The live page in a real browser, of a real scorer, with names that would do harm if they could."""

import json
import re
import signal
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import SCHEMES, SIZES, chromium, opened
from live import serving
from playwright.sync_api import expect
from worlds import decoded, random_model

from pipeline.live.visible import visible
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
SHOWN_SECONDS = 30

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "<svg/onload=alert(4)>",
    "javascript:alert(5)",
    "${alert(6)}{{7*7}}",
    "user\u202egnp.exe",
    "\u2067\u2066isolates",
    "pay\u200bpal\ufeff",
    "مرحبا بالعالم",
    "Z" + "\u0301" * 60 + "algo",
    "a\x00b\nc\x1b[31m\x1f\x1e",
    "w" * 1024,
    "🎉" * 300,
    "https://evil.example/?q=" + "x" * 200,
]
TOO_LONG = "<b>" * 3333 + "x"  # 10,000 characters: no name, but a dead letter


def hostile_ids():
    """Ids, each with the name that it begins with."""
    return [(name + suffix, name) for suffix in ("", *"23456789") for name in HOSTILE if len(name + suffix) <= 1024]


def node(name, ts, user):
    return {
        "type": "node", "id": name, "ts": ts, "user": user, "product": "p1", "stars": 5, "text_length": 9,
        "embedding": [0.5] * 8, "device": user,
    }  # fmt: skip


@pytest.fixture(scope="module")
def lines():
    """A stream, and at its end the hostile ones, some of each so that their groups are struck."""
    stream = list(synthetic_events(seed=4, limit=3000))
    ts = json.loads(stream[-1])["ts"]
    hostile = [node(id_, ts, name) for id_, name in hostile_ids()]
    return [*stream, *map(msgspec.json.encode, [node(TOO_LONG, ts, "u"), *hostile])]


@pytest.fixture(scope="module")
def model(lines, tmp_path_factory):
    """One to which all that is hostile is spam, and most of the rest is not if it can be helped."""
    schema = load_schema(SCHEMA)
    one = random_model(schema, seed=55, width=6)  # one that happens to dislike them
    events = decoded(schema, [json.loads(line) for line in lines if TOO_LONG[:100].encode() not in line])
    scored = Scorer(one).score(events)
    hostile = np.array([events.id[i].startswith(tuple(HOSTILE)) for i in scored.event.tolist()])
    one.threshold = float(min(scored.score[hostile].min(), np.quantile(scored.score, 0.9))) - 1e-3
    folder = tmp_path_factory.mktemp("model")
    one.save(folder)
    return folder


@pytest.fixture(scope="module")
def live(model, lines, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("live"), model, lines) as one:
        one.wait_until_scored()
        deadline = time.monotonic() + SHOWN_SECONDS
        while not one.status()["points"]["at"]:  # the trend looks every few seconds
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield one


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser, live):
    with opened(browser, live.url) as one:
        one.wait_for_state("Live")
        yield one


def test_the_page_shows_what_the_scorer_did(page, live):
    status = live.status()
    assert page.page.title() == "Live · graphsieve"
    assert "schema synthetic" in page.text("#about")
    assert f"model {status['model']}" in page.text("#about")
    assert "dead letters 1" in page.text("#about")
    assert f"scores {status['scores']:,}" in page.text("#about")
    assert "events a second" in page.text("#tile-scores")
    assert page.text("#tile-lag").startswith("0 messages")
    share = 100 * status["spam"] / status["scores"]
    assert float(page.text("#tile-spam").split()[0]) == pytest.approx(share, rel=0.01)
    assert "MB" in page.text("#tile-memory")
    assert "p95" in page.text("#tile-latency")
    assert "s" in page.text("#tile-latency").split()[1]
    for chart in ("throughput", "latency", "share"):
        assert page.page.locator(f"#{chart} svg :is(.curve, .bar)").count() >= 1
        assert page.page.locator(f"#{chart} svg").get_attribute("aria-label")
    assert page.page.locator("#partitions tbody tr").count() == 1
    assert page.text("#partitions tbody").split()[:2] == ["0", "live"]
    assert page.wrongs == []


def test_hostile_names_are_shown_as_what_they_are(page, live):
    shown = page.page.locator("#spam bdi").all_text_contents()
    assert shown == [visible(id_) for id_, _ in hostile_ids()[::-1][: len(shown)]]
    assert len(shown) == 50
    groups = page.page.locator("#groups bdi").all_text_contents()
    assert len(set(groups) & set(map(visible, HOSTILE))) > 5
    assert page.page.locator("main :is(script, img, iframe, a[href^=javascript], [onload], [onerror])").count() == 0
    assert "U+202E" in page.text("#spam")
    assert "‹U+200B›" in page.text("#spam")
    assert max(map(len, shown)) < 64 * 10
    assert live.status()["dead_letters"] == 1
    assert "<b><b>" not in page.page.content().replace("&lt;", "<")
    page.page.wait_for_timeout(2500)  # another refresh
    assert page.wrongs == []


def test_a_name_stays_within_its_own_line_whatever_its_marks_say(page):
    """No direction and no pile of accents reaches beyond the cell that holds the name."""
    cells = page.page.locator("#spam td.names")
    assert set(cells.evaluate_all("all => all.map(one => getComputedStyle(one).overflow)")) == {"hidden"}
    names = page.page.locator("bdi")
    assert set(names.evaluate_all("all => all.map(one => getComputedStyle(one).unicodeBidi)")) == {"isolate"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_is_accessible_and_fits(browser, live, size, scheme):
    with opened(browser, live.url, size, scheme) as one:
        one.wait_for_state("Live")
        found = Axe().run(one.page)
        assert found.response["violations"] == [], found.generate_report()
        assert len(found.response["passes"]) > 15
        assert one.overflow() == 0
        assert [wrong for wrong in one.wrongs if "axe" not in wrong] == []


def test_the_page_is_as_accessible_without_data(browser, model, tmp_path):
    with serving(tmp_path, model) as empty, opened(browser, empty.url, "phone") as one:
        one.wait_for_state("Live")
        assert "Nothing is scored yet." in one.text("#spam")
        assert Axe().run(one.page).response["violations"] == []
        assert one.overflow() == 0


def test_dark_is_dark_and_light_is_light(browser, live):
    brightness = {}
    for scheme in SCHEMES:
        with opened(browser, live.url, scheme=scheme) as one:
            color = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness[scheme] = sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))
    assert brightness["dark"] < 150 < 600 < brightness["light"]


def test_what_the_scorer_does_next_appears_by_itself_and_its_end_is_told(browser, model, lines, tmp_path):
    with serving(tmp_path, model, lines[:500]) as live, opened(browser, live.url, "phone") as one:
        live.wait_until_scored()
        one.wait_for_state("Live")
        live.append(lines[-1:])
        newest = one.page.locator("#spam bdi").first
        expect(newest).to_have_text(visible(json.loads(lines[-1])["id"]), timeout=30_000)
        live.process.send_signal(signal.SIGKILL)
        one.wait_for_state("No answer")
        assert one.page.title() == "No answer · graphsieve"
        assert re.search(
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\. What follows is how things stood", one.text("#banner")
        )
        assert newest.is_visible()
        assert Axe().run(one.page).response["violations"] == []
        assert one.overflow() == 0


@pytest.mark.parametrize(
    ("change", "state", "banner"),
    [
        ({"ready": False, "partitions": [{"state": "restoring", "restored": 0.43}]}, "Restoring", "being restored"),
        ({"healthy": False}, "Stuck", "makes no progress"),
        ({"ready": False, "partitions": [{"state": "failed"}]}, "Failed", "tried again"),
        ({"ready": False, "partitions": []}, "Waiting", ""),
    ],
)
def test_every_state_has_its_word(browser, live, change, state, banner):
    """As a scorer in that state would tell it: the document of a live one, with a few other values."""
    document = live.status()
    nothing = dict.fromkeys(document["partitions"][0])
    document |= change
    if "partitions" in change:
        document["partitions"] = [{**nothing, "partition": 0, **one} for one in change["partitions"]]
    with opened(browser, live.url, document=document) as one:
        one.wait_for_state(state)
        assert banner in one.text("#banner")
        if "partitions" in change:
            expected = [p["state"] for p in change["partitions"]] or ["no partition yet"]
            assert all(word in one.text("#partitions") for word in expected)
        assert one.wrongs == []


def test_the_policy_refuses_a_script_that_is_not_the_pages_own(page):
    """What protects the page if ever a name became markup."""
    page.page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), { src: 'https://evil.example/' }))"
    )
    with pytest.raises(Exception, match="TrustedHTML"):
        page.page.evaluate("document.body.innerHTML = '<b>'")
    page.page.wait_for_timeout(200)
    assert any("Loading the image" in wrong and "Content Security Policy" in wrong for wrong in page.wrongs)


def test_a_value_under_the_pointer_is_told(page):
    whole, box = page.text("#share .legend"), page.page.locator("#share .bar").last.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert re.match(r"\d\d:\d\d .+% of ", page.text("#share .legend"))
    page.page.mouse.move(0, 0)
    assert page.text("#share .legend") == whole
