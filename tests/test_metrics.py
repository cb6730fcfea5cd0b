"""Histograms, collectors and the port, the last over real HTTP."""

import contextlib
import gc
import math
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import weakref
from http import HTTPStatus

import msgspec
import numpy as np
import pytest
from fakes import FakeClock, ListLog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from worlds import START, random_model, world

from consumers.score import ScoreConsumer
from pipeline.config import Config
from pipeline.endpoint import Answer, Endpoint, text_answer
from pipeline.errors import ConfigError
from pipeline.histogram import LATENCY_BUCKETS, SIZE_BUCKETS, LatencyHistogram, SizeHistogram
from pipeline.log import Message, Sending
from pipeline.metrics import MetricsServer, QualityCollector, ScorerCollector, new_registry
from pipeline.snapshot_store import open_store
from pipeline.stats import NO_FIGURES, SHARD_STATES, GroupStats, QualityStats, ServiceStats, Sizes

LOCALHOST = "127.0.0.1"

durations = st.lists(st.floats(0, 2000), max_size=50) | st.lists(st.sampled_from(LATENCY_BUCKETS), max_size=50)


@given(durations)
def test_coarse_buckets_hold_exactly_the_values_up_to_their_edge(values):
    histogram = LatencyHistogram()
    histogram.observe(np.array(values))
    assert histogram.cumulative(LATENCY_BUCKETS) == [
        sum(value <= edge for value in values) for edge in (*LATENCY_BUCKETS, math.inf)
    ]


@given(durations)
def test_one_at_a_time_counts_as_many_at_once(values):
    at_once, one_by_one = LatencyHistogram(), LatencyHistogram()
    at_once.observe(np.array(values))
    for value in values:
        one_by_one.observe_one(value)
    assert at_once.count == one_by_one.count == len(values)
    assert at_once.sum == pytest.approx(one_by_one.sum)
    assert at_once.cumulative(LATENCY_BUCKETS) == one_by_one.cumulative(LATENCY_BUCKETS)


@given(st.lists(st.floats(1e-6, 1000), min_size=1, max_size=300), st.sampled_from([0, 1, 50, 90, 99, 100]))
def test_a_percentile_is_right_to_one_and_a_half_percent(values, p):
    histogram = LatencyHistogram()
    histogram.observe(np.array(values))
    exact = np.percentile(values, p, method="inverted_cdf")
    assert histogram.percentile(p) == pytest.approx(exact, rel=0.015)


def test_percentiles_beyond_the_edges_are_edges_or_the_largest_value():
    histogram = LatencyHistogram()
    assert math.isnan(histogram.percentile(50))
    histogram.observe_one(0.0)
    assert histogram.percentile(50) == 0.0
    histogram.observe(np.array([5000.0, 7000.0]))
    assert histogram.percentile(99) == 7000.0
    assert histogram.cumulative([1000.0]) == [1, 3]


def test_an_edge_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"0\.003 is no edge of this histogram: expected edges out of"):
        LatencyHistogram().cumulative([0.002, 0.003])
    with pytest.raises(ValueError, match="2000"):
        LatencyHistogram().cumulative([2000.0])


def test_sizes_are_counted_in_powers_of_two():
    histogram = SizeHistogram()
    for size in (1, 2, 3, 512, 513):
        histogram.observe_one(size)
    counts = dict(zip(SIZE_BUCKETS, histogram.cumulative(SIZE_BUCKETS), strict=False))
    assert (counts[1], counts[2], counts[4], counts[512], counts[1024]) == (1, 2, 3, 4, 5)


def test_label_values_are_bounded_whatever_the_stream_says():
    stats = ServiceStats(reasons=("bad_ts",))
    stats.count_dead_letters("bad_ts", 2)
    stats.count_dead_letters("user 4711 has no id")
    stats.count_events("node", "applied", 3)
    stats.count_events("user 4711", "bad")

    assert stats.dead_letters == {"bad_ts": 2, "other": 1}
    assert stats.events["node", "applied"] == 3
    assert stats.events["other", "bad"] == 1
    assert len(stats.events) == 30


def work(shard):
    """Have a shard count what a busy one does."""
    shard.state = "live"
    shard.count_events("node", "applied", 512)
    shard.count_dead_letters("bad_ts")
    shard.scores, shard.spam = 500, 70
    shard.last_event_ts = 1000.0
    shard.micro_batch_events.observe_one(512)
    shard.score_latency.observe(np.linspace(0.001, 0.01, 500))
    shard.score_value.observe(np.linspace(0.0, 1.0, 501)[1:])
    shard.stage_seconds["A"].observe_one(0.0004)
    shard.position, shard.log_end, shard.restore_progress = 512, 600, 1.0
    shard.sending = lambda: Sending(5, 2)
    shard.sizes = lambda: Sizes(512, 1024, 40, 64, 1, 2, 3, 4)
    shard.snapshots, shard.snapshot_seconds, shard.snapshot_written_at, shard.snapshot_bytes = 2, 0.25, 990.0, 10_000


def busy_stats(*partitions):
    stats = GroupStats("3f2a", 'my "reviews"\n', ("bad_ts", "missing_field"))
    for partition in partitions or (0,):
        work(stats.begin(partition))
    return stats


def scorer_registry(stats, now=1060.0):
    return new_registry(ScorerCollector(stats, clock=lambda: now))


def scraped(stats):
    """The lines of a real scrape, less those that explain."""
    with serving(scorer_registry(stats)) as server:
        text = get(server.port, "/metrics")[2]
    return [line for line in text.splitlines() if line.startswith("graphsieve_")]


def values(stats):
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in scraped(stats))}


def test_a_scrape_reads_what_the_scorer_counted():
    value = scorer_registry(busy_stats()).get_sample_value
    zero = {"partition": "0"}
    assert value("graphsieve_events_total", {"type": "node", "outcome": "applied"}) == 512
    assert value("graphsieve_dead_letters_total", {"reason": "bad_ts"}) == 1
    assert value("graphsieve_scores_total") == 500
    assert value("graphsieve_spam_scores_total") == 70
    assert value("graphsieve_event_time_lag_seconds", zero) == 60
    assert value("graphsieve_log_lag_messages", zero) == 88
    assert value("graphsieve_snapshot_age_seconds", zero) == 70
    assert value("graphsieve_restore_progress_ratio", zero) == 1
    assert value("graphsieve_memory_bytes", {"part": "hidden"}) == 3
    assert value("graphsieve_in_flight_messages") == 5
    assert value("graphsieve_producers_replaced_total") == 2
    assert value("graphsieve_model_info", {"version": "3f2a", "schema": 'my "reviews"\n'}) == 1
    assert value("graphsieve_score_latency_seconds_count") == 500
    assert value("graphsieve_score_latency_seconds_bucket", {"le": "0.01"}) == 500
    assert value("graphsieve_score_latency_seconds_bucket", {"le": "0.0005"}) == 0
    assert value("graphsieve_score_value_bucket", {"le": "0.05"}) == 25
    assert value("graphsieve_score_value_bucket", {"le": "1.0"}) == 500
    assert value("graphsieve_stage_seconds_count", {"stage": "A"}) == 1
    assert value("graphsieve_micro_batch_events_sum") == 512
    assert value("process_resident_memory_bytes") > 1e6


def test_counts_and_sizes_are_sums_over_the_shards():
    stats = busy_stats(0, 7)
    stats.shards[7].stage_seconds["commit"].observe_one(0.02)
    found, one = values(stats), values(busy_stats())
    for name in (
        'events_total{outcome="applied",type="node"}', 'dead_letters_total{reason="bad_ts"}', "scores_total",
        "spam_scores_total", "score_latency_seconds_count", 'score_latency_seconds_bucket{le="0.005"}',
        'stage_seconds_sum{stage="A"}', "micro_batch_events_sum", "in_flight_messages", "producers_replaced_total",
        "rows", "row_capacity", "lists", "list_capacity", 'memory_bytes{part="ids"}', "snapshots_total",
        "snapshot_bytes", "score_value_count", 'score_value_bucket{le="0.5"}',
    ):  # fmt: skip
        assert found[f"graphsieve_{name}"] == 2 * one[f"graphsieve_{name}"] > 0, name
    assert found['graphsieve_stage_seconds_count{stage="commit"}'] == 1


def test_how_far_a_shard_has_come_is_told_for_each_partition():
    stats = busy_stats(0, 7)
    stats.shards[7].position, stats.shards[7].log_end = 100, 1000
    stats.shards[7].snapshot_written_at = 1050.0
    found = values(stats)
    assert found['graphsieve_log_position{partition="7"}'] == 100
    assert found['graphsieve_log_end_position{partition="7"}'] == 1000
    assert found['graphsieve_log_lag_messages{partition="7"}'] == 900
    assert found['graphsieve_log_lag_messages{partition="0"}'] == 88
    assert found['graphsieve_snapshot_age_seconds{partition="7"}'] == 10
    assert found['graphsieve_snapshot_age_seconds{partition="0"}'] == 70


def test_partitions_are_told_in_the_order_of_their_numbers_each_with_all_states():
    stats = busy_stats(10, 9)
    stats.shards[9].state = "failed"
    assert [line for line in scraped(stats) if line.startswith("graphsieve_shard_state")] == [
        f'graphsieve_shard_state{{partition="{partition}",state="{state}"}} {float(state == its)}'
        for partition, its in ((9, "failed"), (10, "live"))
        for state in SHARD_STATES
    ]


@pytest.mark.parametrize("state", ["released", "lost", "failed"])
def test_a_shard_that_has_ended_leaves_its_counts_and_its_state_and_no_more(state):
    stats = busy_stats(0, 7)
    before = values(stats)
    stats.shards[7].state = state
    after = values(stats)
    vanished = before.keys() - after.keys()
    assert vanished == {name for name in before if 'partition="7"' in name and "shard_state" not in name}
    assert after[f'graphsieve_shard_state{{partition="7",state="{state}"}}'] == 1
    counts = [name for name in before if re.search(r"_(total|count|sum|bucket)(\{|$)", name)]
    assert [after[name] for name in counts] == [before[name] for name in counts]
    for size in ("rows", "lists", "in_flight_messages", "snapshot_bytes", 'memory_bytes{part="rows"}'):
        assert after[f"graphsieve_{size}"] == before[f"graphsieve_{size}"] / 2


def test_a_shard_that_comes_back_counts_on_and_begins_anew_in_all_else():
    stats = busy_stats(3)
    stats.shards[3].live_seconds = 9.0
    before = values(stats)
    back = stats.begin(3)
    after = values(stats)
    counts = [name for name in before if re.search(r"_(total|count|sum|bucket)(\{|$)", name)]
    assert [after[name] for name in counts] == [before[name] for name in counts]
    assert back.live_seconds == 9.0
    assert after['graphsieve_shard_state{partition="3",state="restoring"}'] == 1
    assert after['graphsieve_restore_progress_ratio{partition="3"}'] == 0
    assert 'graphsieve_log_lag_messages{partition="3"}' not in after  # no lag is known, 0 would be a lie
    assert after["graphsieve_rows"] == 0
    back.scores += 1
    back.sending = lambda: Sending(0, 1)
    assert values(stats)["graphsieve_scores_total"] == 501
    assert values(stats)["graphsieve_producers_replaced_total"] == 3


def test_an_old_thread_that_ends_late_does_not_end_the_shard_that_came_back():
    stats = busy_stats(3)
    old, new = stats.shards[3], stats.begin(3)
    new.state = "live"
    old.state = "lost"
    assert values(stats)['graphsieve_shard_state{partition="3",state="live"}'] == 1


def test_producers_that_were_replaced_stay_counted_when_the_log_is_closed_and_forgets_them():
    stats, replaced = busy_stats(), 4
    stats.shards[0].sending = lambda: Sending(9, replaced)
    stats.shards[0].let_go()
    replaced = 0
    assert (stats.shards[0].producers_replaced, stats.shards[0].in_flight) == (4, 0)
    assert values(stats)["graphsieve_producers_replaced_total"] == 4


class StallingLog(ListLog):
    """A log whose broker stalls in every commit; `look` is called meanwhile."""

    def __init__(self, look):
        super().__init__(FakeClock(START))
        self.look, self.in_flight = look, 0

    def commit(self, group, moves, outputs):
        self.in_flight = sum(map(len, outputs.values()))
        self.look()
        super().commit(group, moves, outputs)
        self.in_flight = 0

    def sending(self):
        return Sending(self.in_flight, 3)


def test_the_stats_that_are_asked_for_sizes_do_not_keep_a_state_that_is_gone(tmp_path):
    log, store = ListLog(FakeClock()), open_store(str(tmp_path), "", keep=1)
    consumer = ScoreConsumer(log, store, random_model(world()), Config(), ServiceStats(), print, log.clock, log.clock)
    assert consumer.stats.sizes().ids_bytes > 0
    state = weakref.ref(consumer.scorer)
    gc.disable()  # consumers seldom run it: what waited for it were hundreds of megabytes
    try:
        del consumer
        assert state() is None
    finally:
        gc.enable()


def test_what_is_in_flight_is_seen_while_a_commit_waits_for_the_broker(tmp_path):
    stats, seen = GroupStats(), []
    log = StallingLog(lambda: seen.append(values(stats)))
    nodes = [{"id": f"n{i}", "ts": START, "stars": 1, "user": "u", "embedding": [0, 0]} for i in range(20)]
    end = log.append("events", [Message(msgspec.json.encode(node)) for node in nodes])
    store, shard = open_store(str(tmp_path), "", keep=1), stats.begin(0)
    consumer = ScoreConsumer(log, store, random_model(world()), Config(), shard, print, log.clock, log.clock)
    consumer.recover(threading.Event())
    shard.state = "live"
    consumer.run(threading.Event(), until=end)
    consumer.finish()
    (during,) = seen
    assert during["graphsieve_in_flight_messages"] == len(log.topics["scores"]) > 0
    assert during["graphsieve_producers_replaced_total"] == 3
    assert values(stats)["graphsieve_in_flight_messages"] == 0


def test_a_process_that_serves_nothing_yet_tells_its_counts_and_no_partition():
    found = values(GroupStats("3f2a", "reviews", ("bad_ts",)))
    assert found["graphsieve_scores_total"] == found["graphsieve_rows"] == 0
    assert found['graphsieve_dead_letters_total{reason="bad_ts"}'] == 0
    assert not [name for name in found if "partition" in name]


def test_rebalances_are_counted():
    stats = GroupStats()
    stats.rebalances = 4
    assert values(stats)["graphsieve_rebalances_total"] == 4


def test_metrics_change_between_two_scrapes_without_being_told():
    stats = GroupStats()
    shard = stats.begin(0)
    registry = scorer_registry(stats)
    shard.scores += 7
    assert registry.get_sample_value("graphsieve_scores_total") == 7
    stats.begin(1).scores += 1
    assert registry.get_sample_value("graphsieve_scores_total") == 8


def test_before_the_first_event_and_snapshot_no_age_is_made_up():
    stats = GroupStats()
    stats.begin(0)
    value, zero = scorer_registry(stats).get_sample_value, {"partition": "0"}
    assert math.isnan(value("graphsieve_event_time_lag_seconds", zero))
    assert value("graphsieve_snapshot_age_seconds", zero) == math.inf  # an alert on age fires


def test_a_scrape_reads_the_quality_figures():
    long = {**NO_FIGURES, "labelled": 500, "auroc": 0.77, "ap": 0.35}
    stats = QualityStats(joined=900, pending=30, dropped=2, windows={"short": NO_FIGURES, "long": long})
    value = new_registry(QualityCollector(stats)).get_sample_value
    assert value("graphsieve_quality_labelled_scores_total") == 900
    assert value("graphsieve_quality_dropped_scores_total") == 2
    assert value("graphsieve_quality_window_scores", {"window": "long"}) == 500
    assert value("graphsieve_quality_auroc", {"window": "long"}) == 0.77
    assert value("graphsieve_quality_average_precision", {"window": "long"}) == 0.35
    assert math.isnan(value("graphsieve_quality_recall", {"window": "long"}))
    assert math.isnan(value("graphsieve_quality_auroc", {"window": "short"}))


def test_what_needs_a_checkpoint_is_served_with_one_and_absent_without():
    names = ("graphsieve_quality_expected_auroc", "graphsieve_quality_expected_average_precision")
    value = new_registry(QualityCollector(QualityStats())).get_sample_value
    assert [value(name) for name in (*names, "graphsieve_score_drift_psi")] == [None] * 3
    assert value("graphsieve_drift_psi", {"channel": "stars=5"}) is None
    value = new_registry(QualityCollector(quality_stats())).get_sample_value
    assert [value(name) for name in (*names, "graphsieve_score_drift_psi")] == [0.8, 0.4, 0.02]
    assert value("graphsieve_drift_psi", {"channel": "stars=5"}) == 0.3


@contextlib.contextmanager
def serving(registry, ready=lambda: True, healthy=lambda: True):
    server = MetricsServer(registry, LOCALHOST, 0, ready, healthy)
    with contextlib.closing(server):
        yield server


def get(port, path, **headers):
    request = urllib.request.Request(f"http://{LOCALHOST}:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def quality_stats():
    """As they are with a checkpoint."""
    drift = {"stars=5": 0.3, 'the "amount"\n': math.nan}
    return QualityStats(drift=drift, expected_auroc=0.8, expected_average_precision=0.4, score_drift=0.02)


def everything():
    collectors = ScorerCollector(busy_stats(0, 7), clock=lambda: 1060.0), QualityCollector(quality_stats())
    return new_registry(*collectors)


def test_prometheus_can_read_the_text_format():
    with serving(everything()) as server:
        status, content_type, text = get(server.port, "/metrics?x=1")
    assert status == 200
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse(text)}
    assert families["graphsieve_stage_seconds"].type == "histogram"
    assert families["graphsieve_scores"].samples[0].value == 1000


def test_prometheus_can_read_openmetrics():
    with serving(everything()) as server:
        status, content_type, text = get(server.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert any(family.name == "graphsieve_model" for family in parse_openmetrics(text))


def test_every_metric_is_named_by_the_rules_and_explains_itself():
    families = CollectorRegistry()
    families.register(ScorerCollector(busy_stats(), clock=lambda: 0.0))
    families.register(QualityCollector(quality_stats()))
    for family in families.collect():
        assert re.fullmatch(r"graphsieve_[a-z_]+[a-z]", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|milliseconds|kb|mb|count|sum|bucket|total)$", family.name)
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        label_names = {name for sample in family.samples for name in sample.labels}
        assert label_names <= {
            "type", "outcome", "reason", "stage", "part", "le", "version", "schema", "partition", "state", "window",
            "channel",
        }  # fmt: skip


@pytest.mark.skipif(
    shutil.which("promtool") is None
    and os.environ.get("CI") != "true",  # CI installs it, so there it must not be missing
    reason="promtool, which comes with Prometheus, is not installed",
)
def test_promtool_finds_nothing_to_complain_about():
    with serving(everything()) as server:
        text = get(server.port, "/metrics")[2]
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_probes_follow_the_service():
    state = {"ready": False, "healthy": True}
    with serving(CollectorRegistry(), lambda: state["ready"], lambda: state["healthy"]) as server:
        assert get(server.port, "/readyz")[::2] == (503, "not ready: restoring the state, or stopping\n")
        assert get(server.port, "/healthz")[::2] == (200, "healthy\n")
        state.update(ready=True, healthy=False)
        assert get(server.port, "/readyz")[::2] == (200, "ready\n")
        assert get(server.port, "/healthz")[::2] == (503, "not healthy: the loop makes no progress\n")


def test_any_other_path_is_not_found_and_says_what_there_is():
    with serving(CollectorRegistry()) as server:
        assert get(server.port, "/")[::2] == (404, "no page here: there are /metrics, /healthz, /readyz\n")
        assert get(server.port, "/metrics/x")[0] == 404


def test_head_answers_without_a_body():
    with serving(CollectorRegistry()) as server, connect(server.port) as connection:
        answer = ask(connection, b"HEAD /healthz")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert b"Content-Length: 8\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")


def test_a_page_that_fails_is_answered_and_the_next_is_served():
    def broken():
        raise RuntimeError("no state yet")

    with serving(CollectorRegistry(), ready=broken) as server:
        assert get(server.port, "/readyz")[::2] == (500, "cannot answer /readyz: RuntimeError; the log says more\n")
        assert get(server.port, "/healthz")[0] == 200


def test_a_busy_port_is_an_error_that_names_the_port_and_the_option():
    with serving(CollectorRegistry()) as first:
        expected = (
            f"cannot serve metrics on 127.0.0.1 port {first.port}: Address already in use; "
            "choose another port with --metrics-port (0 takes a free one)"
        )
        with pytest.raises(ConfigError, match=re.escape(expected)):
            MetricsServer(CollectorRegistry(), LOCALHOST, first.port, lambda: True, lambda: True)


@pytest.mark.parametrize(("host", "port"), [(LOCALHOST, 70000), ("192.0.2.1", 0)])
def test_an_impossible_address_is_an_error_in_one_line(host, port):
    with pytest.raises(ConfigError, match=f"cannot serve metrics on {host} port {port}: [^\n]+; choose another port"):
        MetricsServer(CollectorRegistry(), host, port, lambda: True, lambda: True)


def test_a_closed_port_is_free_again():
    with serving(CollectorRegistry()) as server:
        assert get(server.port, "/healthz")[0] == 200
    server.close()  # a second time
    again = MetricsServer(CollectorRegistry(), LOCALHOST, server.port, lambda: True, lambda: True)
    again.close()


def hello(accept: str) -> Answer:
    return text_answer(HTTPStatus.OK, "hello")


def connect(port):
    return socket.create_connection((LOCALHOST, port), timeout=10)


def ask(connection, request):
    connection.sendall(request + b" HTTP/1.0\r\n\r\n")
    return received(connection)


def received(connection):
    """Return what comes until the other side closes, however it does."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(4096):
            parts.append(part)
    return b"".join(parts)


def test_a_client_that_trickles_is_cut_off():
    with contextlib.closing(Endpoint({"/": hello}, LOCALHOST, 0, request_seconds=0.3)) as endpoint:
        with connect(endpoint.port) as connection:
            started = time.monotonic()
            connection.settimeout(0.05)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < started + 5:
                    connection.sendall(b"G")
                    with contextlib.suppress(TimeoutError):
                        if not connection.recv(1):
                            break
        assert 0.25 < time.monotonic() - started < 3
        assert get(endpoint.port, "/")[0] == 200


def test_silent_clients_cannot_pile_up():
    with contextlib.closing(Endpoint({"/": hello}, LOCALHOST, 0, max_connections=2, request_seconds=60)) as endpoint:
        with connect(endpoint.port) as first, connect(endpoint.port) as second, connect(endpoint.port) as third:
            assert received(first) == b""  # cut off for the third
            assert ask(second, b"GET /").endswith(b"hello\n")
            assert ask(third, b"GET /").endswith(b"hello\n")
        assert answers_again(endpoint.port)


def answers_again(port):
    """A slot is free a moment after its client has seen the connection close."""
    for _ in range(100):
        with connect(port) as connection, contextlib.suppress(ConnectionError):
            if ask(connection, b"GET /").endswith(b"hello\n"):
                return True
        time.sleep(0.05)
    return False


def test_scrapes_while_the_scorer_counts_never_fail():
    stats, stop = GroupStats(reasons=("bad_ts",)), threading.Event()

    def score(partition):
        while not stop.is_set():
            shard = stats.begin(partition)  # as one that has come back
            shard.state = "live"
            for _ in range(20):
                shard.count_events("node", "applied")
                shard.count_dead_letters("bad_ts")
                shard.score_latency.observe(np.full(512, 0.003))

    threads = [threading.Thread(target=score, args=(partition,)) for partition in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        with serving(scorer_registry(stats)) as server:
            counted = 0
            for _ in range(20):
                status, _, text = get(server.port, "/metrics")
                assert status == 200
                samples = {sample.name: sample for family in parse(text) for sample in family.samples}
                before, counted = counted, samples["graphsieve_score_latency_seconds_count"].value
                assert counted % 512 == 0
                assert counted >= before
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sorted(stats.shards) == [0, 1]
