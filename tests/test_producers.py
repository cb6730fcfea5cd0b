"""Producers: what they read, the events they make of it, and that the shipped schemas fit these events."""

import gzip
import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from sklearn.metrics import roc_auc_score

from pipeline.cli import main
from pipeline.decoder import Decoder
from pipeline.errors import ConfigError, DataError
from pipeline.log import JSON, Record
from pipeline.recorded import read_messages
from pipeline.schema import load_schema
from pipeline.sqlite_log import SqliteLog
from producers.networks import network_events, network_summary, read_network
from producers.reviews import read_reviews, review_events, review_order, review_summary
from producers.synthetic import DAY, START_TS, SyntheticStream, synthetic_events

REVIEWS = """\
anna cafe 5.0 1 2011-06-08
ben cafe 1 -1 2011-06-07
anna\tbar\t3.0\t1\t2011-06-08
"""
RATINGS = "a,b,4,1000.5\nb,a,-10,2000.5\na,c,1,90000000.25\n"
LABELS = "b,1\na,-1\n"


def written(folder, text, name="file.txt"):
    path = folder / name
    path.write_text(text)
    return path


def network(folder, ratings=RATINGS, labels=LABELS):
    return read_network(written(folder, ratings, "ratings.csv"), written(folder, labels, "labels.csv"))


def decoded(events):
    return [json.loads(event) for event in events]


# ---- reviews ----


def test_review_lines_become_columns_in_the_order_of_the_file(tmp_path):
    table = read_reviews(written(tmp_path, REVIEWS))

    assert table.user.tolist() == ["anna", "ben", "anna"]
    assert table.product.tolist() == ["cafe", "cafe", "bar"]
    assert table.stars.tolist() == [5, 1, 3]
    assert table.label.tolist() == [0, 1, 0]
    assert table.ts.tolist() == [1307491200.0, 1307404800.0, 1307491200.0]


def test_a_gzipped_review_file_is_known_by_its_content_not_its_name(tmp_path):
    packed = tmp_path / "reviews.txt"
    packed.write_bytes(gzip.compress(REVIEWS.encode()))

    assert read_reviews(packed).user.tolist() == ["anna", "ben", "anna"]


def test_a_review_is_a_node_at_midnight_and_its_label_comes_after_the_delay(tmp_path):
    table = read_reviews(written(tmp_path, "x p 1 -1 2011-06-07\ny p 5 1 2011-06-09\n"))

    assert decoded(review_events(table, label_delay_seconds=DAY, seed=0)) == [
        {"type": "node", "id": "r0", "ts": 1307404800.0, "user": "x", "product": "p", "stars": 1},
        {"type": "label", "id": "r0", "ts": 1307491200.0, "label": 1},
        {"type": "node", "id": "r1", "ts": 1307577600.0, "user": "y", "product": "p", "stars": 5},
        {"type": "label", "id": "r1", "ts": 1307664000.0, "label": 0},
    ]


def test_at_equal_times_nodes_come_before_labels_and_labels_in_the_order_of_their_nodes(tmp_path):
    lines = [f"u{i} p 5 1 2011-06-{day:02}\n" for i in range(30) for day in (1, 2)]
    table = read_reviews(written(tmp_path, "".join(lines)))
    events = decoded(review_events(table, label_delay_seconds=DAY, seed=3))

    second_day = [e for e in events if e["ts"] == 1306972800.0]
    kinds = [e["type"] for e in second_day]
    assert kinds == ["node"] * 30 + ["label"] * 30
    first_day = [e["id"] for e in events[:30]]
    assert [e["id"] for e in second_day[30:]] == first_day


def test_reviews_of_one_day_are_shuffled_by_the_seed_and_days_stay_in_order(tmp_path):
    lines = [f"u{i} p 5 1 2011-06-{1 + i % 2:02}\n" for i in range(200)]
    table = read_reviews(written(tmp_path, "".join(lines)))
    order, same, other = review_order(table, 0), review_order(table, 0), review_order(table, 1)

    assert order.tolist() == same.tolist() != other.tolist()
    assert sorted(order.tolist()) == list(range(200))
    assert (np.diff(table.ts[order]) >= 0).all()
    assert order[:100].tolist() != sorted(order[:100].tolist())
    assert review_summary(table, 0)["order_within_a_day"] == "unknown to the file; shuffled with seed 0"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x p 5 1", "4 columns in 'x p 5 1', expected 5: user product rating label date"),
        ("", "0 columns in '', expected 5: user product rating label date"),
        ("x p 5 1 2011-06-08 !", "6 columns in 'x p 5 1 2011-06-08 !', expected 5: user product rating label date"),
        ("x p 6.0 1 2011-06-08", "rating is '6.0', expected a whole number of stars from 1 to 5"),
        ("x p 4.5 1 2011-06-08", "rating is '4.5', expected a whole number of stars from 1 to 5"),
        ("x p nan 1 2011-06-08", "rating is 'nan', expected a whole number of stars from 1 to 5"),
        ("x p 5 0 2011-06-08", "label is '0', expected -1 (spam) or 1 (not)"),
        ("x p 5 spam 2011-06-08", "label is 'spam', expected -1 (spam) or 1 (not)"),
        ("x p 5 1 2011-02-30", "date is '2011-02-30', expected a day like 2011-06-08"),
        ("x p 5 1 08/06/2011", "date is '08/06/2011', expected a day like 2011-06-08"),
    ],
)
def test_a_bad_review_line_is_named_with_what_was_expected(tmp_path, line, problem):
    path = written(tmp_path, f"{REVIEWS}{line}\n{REVIEWS}")

    with pytest.raises(DataError, match=re.escape(f"{path} line 4: {problem}")):
        read_reviews(path)


def test_a_review_file_that_cannot_be_read_is_one_clear_error(tmp_path):
    truncated = tmp_path / "truncated.gz"
    truncated.write_bytes(gzip.compress(REVIEWS.encode())[:40])
    latin = tmp_path / "latin.txt"
    latin.write_bytes("zoé cafe 5 1 2011-06-08\n".encode("latin-1"))

    for path in (tmp_path / "missing.txt", truncated, latin):
        with pytest.raises(DataError, match=f"cannot read {re.escape(str(path))}: .*; expected a review a line"):
            read_reviews(path)
    with pytest.raises(DataError, match="empty.txt is empty: expected a review a line"):
        read_reviews(written(tmp_path, "", "empty.txt"))


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
def test_a_label_cannot_come_before_what_it_judges(tmp_path, delay):
    table, ratings = read_reviews(written(tmp_path, REVIEWS)), network(tmp_path)

    with pytest.raises(ConfigError, match="label delay is .* seconds: expected 0 or more, for example '30d'"):
        next(review_events(table, delay, seed=0))
    with pytest.raises(ConfigError, match="label delay is .* seconds: expected 0 or more, for example '30d'"):
        next(network_events(ratings, delay))


def test_the_chicago_reviews_have_the_published_graph_statistics(data_dir):
    """Rayana & Akoglu's data as CARE-GNN uses it: products with more than 800 reviews dropped."""
    table = read_reviews(data_dir / "reviews" / "yelpchi.txt.gz")
    _, product, reviews_of = np.unique(table.product, return_inverse=True, return_counts=True)
    kept = reviews_of[product] <= 800

    assert review_summary(table, seed=0) == {
        "reviews": 67395,
        "users": 38063,
        "products": 201,
        "spam_share": 0.1323,
        "first_day": "2004-10-12",
        "last_day": "2012-10-08",
        "order_within_a_day": "unknown to the file; shuffled with seed 0",
    }
    assert kept.sum() == 45954
    assert round(table.label[kept].mean(), 3) == 0.145
    assert pairs(table.user[kept].tolist()) == 49315
    assert pairs(zip(table.product[kept].tolist(), table.stars[kept].tolist(), strict=True)) == 3402743


def pairs(keys):
    """Count the pairs of reviews that share a key."""
    return sum(n * (n - 1) // 2 for n in Counter(keys).values())


def test_every_chicago_review_comes_once_in_time_order_and_so_does_its_label(data_dir):
    table = read_reviews(data_dir / "reviews" / "yelpchi.txt.gz")
    events = decoded(review_events(table, label_delay_seconds=30 * DAY, seed=0))
    place = {(event["type"], event["id"]): i for i, event in enumerate(events)}

    assert len(place) == len(events) == 2 * len(table)
    assert (np.diff([event["ts"] for event in events]) >= 0).all()
    assert all(place["label", f"r{i}"] > place["node", f"r{i}"] for i in range(len(table)))
    assert sum(event["label"] for event in events if event["type"] == "label") == table.label.sum()


# ---- networks ----


def test_a_rating_makes_newcomers_known_connects_both_ends_and_scores_the_rated_user(tmp_path):
    assert decoded(network_events(network(tmp_path), label_delay_seconds=DAY))[:8] == [
        {"type": "node", "id": "a", "ts": 1000.5},
        {"type": "node", "id": "b", "ts": 1000.5},
        {"type": "edge", "relation": "trust", "src": "a", "dst": "b", "ts": 1000.5},
        {"type": "edge", "relation": "gave_trust", "src": "b", "dst": "a", "ts": 1000.5},
        {"type": "score", "id": "b", "ts": 1000.5},
        {"type": "edge", "relation": "distrust", "src": "b", "dst": "a", "ts": 2000.5},
        {"type": "edge", "relation": "gave_distrust", "src": "a", "dst": "b", "ts": 2000.5},
        {"type": "score", "id": "a", "ts": 2000.5},
    ]


def test_a_users_label_comes_after_the_last_rating_it_received_between_the_ratings_of_that_time(tmp_path):
    events = decoded(network_events(network(tmp_path), label_delay_seconds=DAY))

    assert [e for e in events if e["type"] == "label"] == [
        {"type": "label", "id": "b", "label": 0, "ts": 1000.5 + DAY},
        {"type": "label", "id": "a", "label": 1, "ts": 2000.5 + DAY},
    ]
    assert [e["type"] for e in events[8:]] == ["label", "label", "node", "edge", "edge", "score"]


def test_who_only_gave_ratings_is_labelled_after_the_last_it_gave_and_leftover_labels_come_last(tmp_path):
    events = decoded(network_events(network(tmp_path, "a,b,1,10\na,c,1,20\n", "a,1\n"), label_delay_seconds=5.0))

    assert events[-1] == {"type": "label", "id": "a", "label": 0, "ts": 25.0}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a,b,1", "'a,b,1', expected rater,ratee,rating,unix seconds"),
        (",b,1,3e8", "',b,1,3e8', expected rater,ratee,rating,unix seconds"),
        ("b,b,1,3e8", "'b' rates itself; remove the line"),
        ("b,c,0,3e8", "rating is '0', expected a whole number from -10 to 10 but not 0"),
        ("b,c,11,3e8", "rating is '11', expected a whole number from -10 to 10 but not 0"),
        ("b,c,1,soon", "time is 'soon', expected unix seconds like 1289241911.72836"),
        ("b,c,1,nan", "time is 'nan', expected unix seconds like 1289241911.72836"),
        ("b,c,1,5.0", "time 5.0 after 90000000.25, expected time order; sort the file by its fourth column"),
        ("a,b,-1,3e8", "'a' rated 'b' on line 1 already, expected one rating a pair; remove one"),
    ],
)
def test_a_bad_rating_line_is_named_with_what_was_expected(tmp_path, line, problem):
    with pytest.raises(DataError, match=re.escape(f"ratings.csv line 4: {problem}")):
        network(tmp_path, ratings=f"{RATINGS}{line}\n")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("c,0", "'c,0', expected user,label with label 1 (good) or -1 (bad)"),
        ("c", "'c', expected user,label with label 1 (good) or -1 (bad)"),
        ("stranger,1", "user 'stranger' neither rates nor is rated; remove the line"),
        ("a,1", "user 'a' is labelled again; remove one of the lines"),
    ],
)
def test_a_bad_label_line_is_named_with_what_was_expected(tmp_path, line, problem):
    with pytest.raises(DataError, match=re.escape(f"labels.csv line 3: {problem}")):
        network(tmp_path, labels=f"{LABELS}{line}\n")


def test_a_network_file_that_is_missing_or_empty_is_one_clear_error(tmp_path):
    labels = written(tmp_path, LABELS, "labels.csv")

    with pytest.raises(DataError, match="cannot read .*none.csv: .*; expected lines of CSV, plain text or gzip"):
        read_network(tmp_path / "none.csv", labels)
    with pytest.raises(DataError, match="ratings.csv is empty: expected a line of CSV"):
        network(tmp_path, ratings="")


def test_the_bitcoin_network_is_read_whole_and_its_events_are_in_time_order(data_dir):
    table = bitcoin(data_dir)
    events = decoded(network_events(table, label_delay_seconds=30 * DAY))

    assert network_summary(table) == {
        "ratings": 35592,
        "users": 5881,
        "distrust_share": 0.1001,
        "labelled_users": 316,
        "spam_share": 0.5696,
        "first_day": "2010-11-08",
        "last_day": "2016-01-25",
    }
    assert Counter(event["type"] for event in events) == {"node": 5881, "edge": 71184, "score": 35592, "label": 316}
    assert (np.diff([event["ts"] for event in events]) >= 0).all()


def bitcoin(data_dir):
    folder = data_dir / "networks"
    return read_network(folder / "bitcoin_otc_ratings.csv.gz", folder / "bitcoin_otc_labels.csv.gz")


# ---- the synthetic stream ----


@pytest.fixture(scope="module")
def stream():
    """The first 60,000 events of seed 0: eleven days."""
    return decoded(synthetic_events(0, limit=60_000))


def of_type(events, name):
    return [event for event in events if event["type"] == name]


def test_the_stream_is_put_on_a_log_with_keys_or_into_a_file(tmp_path, capsys):
    synthetic = ["import", "synthetic", "--events", "50", "--seed", "7"]
    assert main([*synthetic, "--to", f"sqlite:{tmp_path}/log.db", "--key", "user"]) == 0
    assert main([*synthetic, "--out", str(tmp_path / "events.jsonl")]) == 0
    lines = list(synthetic_events(seed=7, limit=50))
    log = SqliteLog(tmp_path / "log.db")
    found = log.read_batch("events", 0, 100, 0).records
    log.close()
    assert [record.value for record in found] == lines
    assert all(record.key.startswith("u") for record in found)
    assert [record.value for record in read_messages(tmp_path / "events.jsonl")] == lines
    capsys.readouterr()
    assert main([*synthetic, "--out", str(tmp_path / "events.jsonl"), "--key", "user"]) == 2
    assert "--key, --rate and --burst say how events are put on a log" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bytes_however_they_are_consumed():
    stream = SyntheticStream(seed=7)
    at_once = list(islice(stream, 20_000))
    events, other = iter(stream), synthetic_events(8)
    one_by_one = [next(events) for _ in at_once if next(other)]

    assert one_by_one == at_once == list(synthetic_events(7, limit=20_000))
    assert list(synthetic_events(8, limit=20)) != at_once[:20]


def test_a_limit_of_none_is_endless_and_times_run_from_the_start_that_was_given(stream):
    ts = [event["ts"] for event in stream if "ts" in event]

    assert START_TS <= ts[0] < START_TS + 3600
    assert (np.diff(ts) >= 0).all()
    assert len(stream) / ((ts[-1] - ts[0]) / DAY) == pytest.approx(5400, rel=0.1)
    later = decoded(islice(synthetic_events(0, start_ts=START_TS + 365 * DAY), 100))
    assert later[0]["ts"] == pytest.approx(ts[0] + 365 * DAY, abs=0.01)


def test_every_review_is_labelled_once_and_late_unless_the_stream_ends_first(stream):
    arrived = {}
    for event in of_type(stream, "node"):
        arrived.setdefault(event["id"], event["ts"])
    delays = {event["id"]: event["ts"] - arrived[event["id"]] for event in of_type(stream, "label")}

    assert len(delays) == len(of_type(stream, "label"))
    assert min(delays.values()) >= 0
    last = stream[-1]["ts"]
    assert all(label in delays for label, ts in arrived.items() if ts < last - 16 * DAY)
    early = [delay for label, delay in delays.items() if arrived[label] < START_TS + DAY]
    assert np.mean(early) == pytest.approx(3 * DAY, rel=0.15)


def test_a_few_reviews_are_edited_with_a_newer_time_and_a_few_are_retracted(stream):
    seen = {}
    edited = 0
    for event in of_type(stream, "node"):
        before = seen.setdefault(event["id"], event)
        edited += event is not before
        assert before["ts"] <= event["ts"]
        assert {before[key] == event[key] for key in ("user", "product", "embedding")} == {True}
    retracted = {event["id"] for event in of_type(stream, "retract")}

    assert 0.003 < edited / len(seen) < 0.007
    assert 0.001 < len(retracted) / len(seen) < 0.003
    assert retracted <= set(seen)


def test_without_edits_and_retractions_there_are_none():
    events = decoded(islice(SyntheticStream(update_share=0.0, retract_share=0.0), 20_000))
    nodes = of_type(events, "node")

    assert not of_type(events, "retract")
    assert len({event["id"] for event in nodes}) == len(nodes)


def test_spam_is_hardly_seen_in_the_stars_but_in_what_came_from_the_device_before(stream):
    spam = {event["id"]: event["label"] for event in of_type(stream, "label")}
    nodes = [event for event in of_type(stream, "node") if event["id"] in spam]

    assert 0.07 < np.mean(list(spam.values())) < 0.11
    assert 0.55 < auroc_of_past_spam_share(nodes, spam, "stars") < 0.65
    assert 0.7 < auroc_of_past_spam_share(nodes, spam, "device") < 0.9


def auroc_of_past_spam_share(nodes, spam, field):
    """Judge each later node by the share of spam among the earlier ones with the same value of `field`."""
    count, spam_count = Counter(), Counter()
    earlier, later = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    for node in earlier:
        count[node.get(field)] += 1
        spam_count[node.get(field)] += spam[node["id"]]
    shares = [(spam_count[node.get(field)] + 0.1) / (count[node.get(field)] + 1) for node in later]
    return roc_auc_score([spam[node["id"]] for node in later], shares)


def test_as_many_labels_wait_as_the_delay_says_however_long_the_stream_has_run():
    settings = SyntheticStream(reviews_per_day=20_000.0, campaigns_per_day=64.0, users=500, products=50)
    waiting = 0
    for event in islice(settings, 400_000):
        waiting += event.startswith(b'{"type":"node"') - event.startswith(b'{"type":"label"')

    # 22 thousand reviews a day wait for their label three days on average.
    assert waiting == pytest.approx(3 * 22_000, rel=0.1)


# ---- the shipped schemas ----


def records(events):
    return [Record(i, event, None, JSON, float("nan")) for i, event in enumerate(events)]


def shipped_schema(name):
    return load_schema(Path(REPOSITORY, "deploy", "schemas", f"{name}.toml"))


def assert_schema_fits(name, events):
    messages = list(events)
    batch, bad = Decoder(shipped_schema(name)).decode(records(messages))

    assert bad == []
    assert len(batch) == len(messages)
    assert np.isfinite(batch.features).all()


def test_the_reviews_schema_fits_the_review_events(tmp_path):
    assert_schema_fits("reviews", review_events(read_reviews(written(tmp_path, REVIEWS)), DAY, seed=0))


def test_the_network_schema_fits_the_rating_events(data_dir):
    assert_schema_fits("network", network_events(bitcoin(data_dir), 30 * DAY))


def test_the_synthetic_schema_fits_the_stream():
    assert_schema_fits("synthetic", synthetic_events(0, limit=20_000))
