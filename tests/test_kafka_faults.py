"""Faults, each caused for real: nothing lost, nothing doubled, and the scores of an undisturbed run.

`make trials` runs the whole of what the suite holds a short version of.
"""

import contextlib
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import one_megabyte_disk
from kafka_consumers import (
    QUICK,
    SCHEMA,
    Deployment,
    Outputs,
    assert_same,
    assert_same_scores,
    assert_undisturbed,
    embedded,
    stream,
    undisturbed,
)
from worlds import random_model

from pipeline.broker import Broker
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import TOMBSTONE, Message
from pipeline.schema import load_schema

BUSY = ("--max-batch", 32, "--snapshot-every", "100ms")  # as many instants of every kind as can be


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


def slices(messages: Sequence[Message], count: int) -> list[Sequence[Message]]:
    size = -(-len(messages) // count)
    return [messages[start : start + size] for start in range(0, len(messages), size)]


# ---- a consumer dies ----


def kill_consumers(deployment: Deployment, messages: Sequence[Message], kills: int, consumers: int, seed: int) -> None:
    """Kill -9 one of the consumers again and again while there is work for all; another takes its place at once."""
    chance = random.Random(seed)
    at_work = [deployment.consumer(*BUSY) for _ in range(consumers)]
    for part in slices(messages, kills):
        deployment.append(part)
        deployment.wait_for_scores()
        time.sleep(chance.uniform(0, 0.3))
        at_work.pop(chance.randrange(consumers)).kill()
        at_work.append(deployment.consumer(*BUSY))
    deployment.wait_until_scored()


def test_kill_9_of_a_consumer_at_random_instants_loses_and_repeats_nothing(broker, model, tmp_path):
    messages = stream(6000)
    with Deployment(broker, model, tmp_path, 2, QUICK) as deployment:
        kill_consumers(deployment, messages, kills=3, consumers=1, seed=1)
        assert_undisturbed(deployment, undisturbed(model, messages, 2, tmp_path))


@pytest.mark.trial
@pytest.mark.parametrize("consumers", [1, 2])
def test_kill_9_of_a_consumer_at_fifty_random_instants_loses_and_repeats_nothing(broker, model, tmp_path, consumers):
    messages = stream(100_000)
    with Deployment(broker, model, tmp_path, 4, QUICK) as deployment:
        kill_consumers(deployment, messages, kills=50, consumers=consumers, seed=2)
        assert_undisturbed(deployment, undisturbed(model, messages, 4, tmp_path))


def test_what_a_killed_consumer_had_begun_to_commit_is_ended_by_the_next_one(broker, model, tmp_path):
    messages = stream(1000)
    with Deployment(broker, model, tmp_path, 1, {"GRAPHSIEVE_KAFKA_STALL": "10m"}) as deployment:
        deployment.append(messages)
        deployment.leave_open_transaction()  # which nobody could read past for ten minutes
        with contextlib.closing(KafkaLog(Cluster(broker.address), 0)) as log:
            assert (log.end(deployment.scores), log.written(deployment.scores)) == (0, 1)
            deployment.consumer()
            deployment.wait_until_scored()
            assert log.written(deployment.scores) == log.end(deployment.scores) > 1
        assert_undisturbed(deployment, undisturbed(model, messages, 1, tmp_path))


def test_a_consumer_that_has_lost_its_state_replays_and_publishes_nothing_twice(broker, model, tmp_path):
    messages = stream(4000)
    with Deployment(broker, model, tmp_path, 2) as deployment:
        deployment.append(messages[:2000])
        consumer = deployment.consumer()
        deployment.wait_until_scored()
        consumer.stop()
        shutil.rmtree(deployment.state)
        deployment.append(messages[2000:])
        deployment.consumer()
        deployment.wait_until_scored()
        assert_undisturbed(deployment, undisturbed(model, messages, 2, tmp_path))


def test_at_least_once_loses_nothing_after_kill_9_and_what_comes_again_is_the_same(broker, model, tmp_path):
    messages = stream(6000)
    with Deployment(broker, model, tmp_path, 2, {**QUICK, "GRAPHSIEVE_KAFKA_DELIVERY": "at-least-once"}) as deployment:
        kill_consumers(deployment, messages, kills=3, consumers=1, seed=3)
        for partition, wanted in enumerate(undisturbed(model, messages, 2, tmp_path)):
            assert_same_but_for_repeats(deployment.published(partition), wanted)


def assert_same_but_for_repeats(found: Outputs, wanted: Outputs) -> None:
    scores, letters = {}, {}
    for score in found.scores:
        first = scores.setdefault((score.id, score.position, score.index), score)
        assert score.model == first.model
        assert_same_scores([score], [first])
    for letter in found.letters:
        assert letters.setdefault((letter["position"], letter["index"]), letter) == letter
    assert_same(Outputs(list(scores.values()), list(letters.values())), wanted)


# ---- the broker is away ----


def kill_broker(broker: Broker, deployment: Deployment, messages: Sequence[Message], kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(2):
        deployment.consumer(*BUSY)
    for part in slices(messages, kills):
        with deployment.feeding(part, rate=2000):
            deployment.wait_for_scores()
            time.sleep(chance.uniform(0, 0.5))
            broker.kill()
            time.sleep(chance.uniform(0, 0.5))
            broker.restart()
    deployment.wait_until_scored()


def test_kill_9_of_the_broker_under_load_loses_and_repeats_nothing(own_broker, model, tmp_path):
    messages = stream(4000)
    with Deployment(own_broker, model, tmp_path, 2) as deployment:
        kill_broker(own_broker, deployment, messages, kills=1, seed=1)
        assert_undisturbed(deployment, undisturbed(model, messages, 2, tmp_path))


@pytest.mark.trial
def test_ten_times_kill_9_of_the_broker_under_load_loses_and_repeats_nothing(own_broker, model, tmp_path):
    messages = stream(60_000)
    with Deployment(own_broker, model, tmp_path, 4) as deployment:
        kill_broker(own_broker, deployment, messages, kills=10, seed=2)
        assert_undisturbed(deployment, undisturbed(model, messages, 4, tmp_path))


def stop_broker(broker: Broker, folder: Path, model: Path, messages: list[Message], seconds: float, stall: str) -> None:
    """Stop the broker under the load of two groups: one replaces its producers meanwhile, the other waits for it."""
    impatient, patient = {**QUICK, "GRAPHSIEVE_KAFKA_STALL": stall}, {"GRAPHSIEVE_KAFKA_STALL": "10m"}
    with (
        Deployment(broker, model, folder, 2, impatient) as one,
        Deployment(broker, model, folder, 2, patient) as other,
    ):
        for deployment in (one, other):
            deployment.consumer(*BUSY)
        for deployment in (one, other):
            deployment.wait_until(deployment.consumers[0].serves)
        for deployment in (one, other):
            deployment.append(messages)
        one.wait_for_scores()
        broker.pause()
        time.sleep(seconds)
        broker.resume()
        wanted = undisturbed(model, messages, 2, folder)
        for deployment in (one, other):
            deployment.wait_until_scored()
            assert_undisturbed(deployment, wanted)
        assert one.consumers[0].metric("graphsieve_producers_replaced_total") > 0
        assert other.consumers[0].metric("graphsieve_producers_replaced_total") == 0


def test_a_broker_that_stops_for_a_while_loses_and_repeats_nothing(own_broker, model, tmp_path):
    stop_broker(own_broker, tmp_path, model, stream(4000), seconds=4, stall="1s")


@pytest.mark.trial
def test_a_broker_that_stops_for_a_minute_loses_and_repeats_nothing(own_broker, model, tmp_path):
    stop_broker(own_broker, tmp_path, model, stream(20_000), seconds=60, stall="10s")


# ---- partitions move ----


def test_a_zombie_publishes_nothing_and_goes_on_as_a_member(broker, model, tmp_path):
    messages = stream(6000)
    first, second, third = slices(messages, 3)
    with Deployment(broker, model, tmp_path, 2, QUICK) as deployment:
        zombie = deployment.consumer(*BUSY)
        deployment.append(first)
        deployment.wait_for_scores()
        zombie.pause()
        deployment.append(second)
        heir = deployment.consumer(*BUSY)
        deployment.wait_until(lambda: heir.serves() == {0, 1})
        deployment.wait_for_scores()
        zombie.resume()
        deployment.append(third)
        deployment.wait_until(zombie.serves)
        deployment.wait_until_scored()
        assert "went to another consumer while this one gave no sign of life" in zombie.said
        assert zombie.serves() | heir.serves() == {0, 1}
        assert_undisturbed(deployment, undisturbed(model, messages, 2, tmp_path))


def test_consumers_join_and_leave_and_what_does_not_move_is_served_meanwhile(broker, model, tmp_path):
    messages = stream(12_000)
    with Deployment(broker, model, tmp_path, 4) as deployment:
        one, two = deployment.consumer(), deployment.consumer()
        deployment.wait_until(lambda: len(one.serves()) == len(two.serves()) == 2)
        before = one.serves(), two.serves()
        with deployment.feeding(messages, rate=1500):
            deployment.wait_for_scores(1000)
            three = deployment.consumer()
            deployment.wait_until(three.serves)
            (moved,) = three.serves()
            stayed = before[0] & one.serves() | before[1] & two.serves()
            assert len(stayed) == 3
            moved_at = max(deployment.snapshot_positions(moved))
            deployment.wait_for_scores(500)
            three.stop()
            deployment.wait_until(lambda: one.serves() | two.serves() == {0, 1, 2, 3})
        deployment.wait_until_scored()
        assert_undisturbed(deployment, undisturbed(model, messages, 4, tmp_path))
        began, ended = silence(deployment, moved, moved_at)
        for partition in stayed:
            assert any(began < score.scored_at < ended for score in deployment.published(partition).scores)


def silence(deployment: Deployment, partition: int, position: int) -> tuple[float, float]:
    """From the last score before `position` to the first one behind it."""
    scores = deployment.published(partition).scores
    before = [score.scored_at for score in scores if score.position < position]
    behind = [score.scored_at for score in scores if score.position >= position]
    return max(before), min(behind)


def test_a_rolling_restart_of_static_members_moves_no_partition(broker, model, tmp_path):
    messages = stream(6000)
    with Deployment(broker, model, tmp_path, 2) as deployment:
        one, two = deployment.consumer("--instance", "one"), deployment.consumer("--instance", "two")
        deployment.wait_until(lambda: len(one.serves()) == len(two.serves()) == 1)
        before, rebalances = (one.serves(), two.serves()), two.metric("graphsieve_rebalances_total")
        deployment.append(messages[:2000])
        deployment.wait_for_scores()
        one.stop()
        one = deployment.consumer("--instance", "one")
        deployment.append(messages[2000:4000])
        deployment.wait_until_scored()
        assert two.metric("graphsieve_rebalances_total") == rebalances
        deployment.append(messages[4000:])
        two.kill()
        two = deployment.consumer("--instance", "two")
        deployment.wait_until_scored()
        assert (one.serves(), two.serves()) == before
        assert one.metric("graphsieve_rebalances_total") == 1  # when it came back
        assert_undisturbed(deployment, undisturbed(model, messages, 2, tmp_path))


def test_a_partition_goes_on_elsewhere_from_its_snapshot(broker, model, tmp_path):
    messages = stream(4000)
    with Deployment(broker, model, tmp_path, 1) as deployment:
        deployment.append(messages[:2000])
        one = deployment.consumer()
        deployment.wait_until_scored()
        one.stop()
        assert deployment.positions() == deployment.snapshot_positions(0)
        two = deployment.consumer()
        deployment.wait_until(two.serves)
        # It has written none itself: this is the age of the one that it took.
        assert 0 < two.metric('graphsieve_snapshot_age_seconds{partition="0"}') < math.inf
        deployment.append(messages[2000:])
        deployment.wait_until_scored()
        assert_undisturbed(deployment, undisturbed(model, messages, 1, tmp_path))


# ---- what producers do ----


def test_a_producer_that_sends_everything_twice_changes_no_score(broker, model, tmp_path):
    messages = stream(3000)
    twice = [message for message in messages for _ in range(2)]
    with Deployment(broker, model, tmp_path, 2) as deployment:
        deployment.append(twice)
        consumer = deployment.consumer()
        deployment.wait_until_scored()
        duplicates = consumer.metric('graphsieve_events_total{outcome="duplicate",type="node"}')
        for partition, once in enumerate(undisturbed(model, messages, 2, tmp_path)):
            scores = deployment.published(partition).scores
            assert [(s.id, s.position) for s in scores] == [(s.id, 2 * s.position) for s in once.scores]
            assert_same_scores(scores, once.scores)
        assert_undisturbed(deployment, undisturbed(model, twice, 2, tmp_path))
        assert duplicates >= sum(len(deployment.published(partition).scores) for partition in range(2))


BROKEN = [
    Message(b'{"type":"node","id":'),
    Message(json.dumps({"type": "node", "id": 7, "ts": "now", "user": ["u"], "stars": "five"}).encode()),
    Message(b"[]"),
    Message(b"", b"\xff\x00".decode(errors="surrogateescape"), TOMBSTONE),
    Message(b"\xff\xfe\x00", b"\x80".decode(errors="surrogateescape")),
    Message(b"x" * 2_000_000, "large"),
]


def test_a_poison_message_in_every_hundred_is_set_aside_and_changes_no_score(broker, model, tmp_path):
    messages = stream(3000)
    poisoned, places = [], []  # the position in `poisoned` of each of `messages`
    for number, message in enumerate(messages):
        if number % 100 == 50:
            poisoned.append(BROKEN[number // 100 % len(BROKEN)])
        places.append(len(poisoned))
        poisoned.append(message)
    clean = embedded(model, messages, tmp_path / "clean")
    with Deployment(broker, model, tmp_path, 1, configs={"max.message.bytes": "3000000"}) as deployment:
        deployment.append(poisoned)
        deployment.consumer()
        deployment.wait_until_scored()
        found = deployment.published(0)
        assert [(s.id, s.position) for s in found.scores] == [(s.id, places[s.position]) for s in clean.scores]
        assert_same_scores(found.scores, clean.scores)
        letters = {letter["position"] for letter in found.letters}
        assert letters == {places[letter["position"]] for letter in clean.letters} | set(range(len(poisoned))) - {
            *places
        }
        assert_same(found, embedded(model, poisoned, tmp_path / "poisoned"))


# ---- what is kept is lost or out of reach ----


def test_scoring_goes_on_while_snapshots_cannot_be_written(broker, model, tmp_path):
    messages = stream(6000)
    with one_megabyte_disk() as disk, Deployment(broker, model, tmp_path, state=disk / "state") as deployment:
        deployment.append(messages)
        consumer = deployment.consumer("--snapshot-every", "100ms")
        deployment.wait_until_scored()
        consumer.stop()
        assert "No space left on device; free space there; scoring goes on" in consumer.said
        assert_undisturbed(deployment, undisturbed(model, messages, 1, tmp_path))


def test_a_shard_without_its_store_is_tried_again_and_the_others_are_served(broker, model, tmp_path):
    messages = stream(4000)
    wanted = undisturbed(model, messages, 2, tmp_path)
    with Deployment(broker, model, tmp_path, 2) as deployment:
        deployment.append(messages)
        in_the_way = deployment.shard_state(1)
        in_the_way.parent.mkdir(parents=True)
        in_the_way.write_text("")
        consumer = deployment.consumer()
        deployment.wait_until(lambda: deployment.positions()[0] == deployment.ends(deployment.events)[0])
        assert f"{in_the_way} cannot be used: " in consumer.said
        assert deployment.positions()[1] == 0
        in_the_way.unlink()
        deployment.wait_until_scored()
        assert_undisturbed(deployment, wanted)


def test_a_log_that_no_longer_reaches_back_to_the_snapshot_is_refused_and_nothing_skipped(broker, model, tmp_path):
    messages = stream(3000)
    with Deployment(broker, model, tmp_path, 1) as deployment:
        deployment.append(messages[:1000])
        assert deployment.consumer("--until-end").ended() == 0
        kept = shutil.copytree(deployment.state, tmp_path / "older")
        deployment.append(messages[1000:2000])
        assert deployment.consumer("--until-end").ended() == 0
        deployment.forget_events_before(1500)
        deployment.append(messages[2000:])
        shutil.move(deployment.state, tmp_path / "newer")
        shutil.move(kept, deployment.state)
        refused = deployment.consumer()
        assert refused.ended() == 2
        assert "begins at 1500, position 1000 was to be read: retention has removed what lies between" in refused.said
        assert deployment.positions() == [2000]
        shutil.rmtree(deployment.state)
        shutil.move(tmp_path / "newer", deployment.state)
        deployment.consumer()
        deployment.wait_until_scored()
        assert_undisturbed(deployment, undisturbed(model, messages, 1, tmp_path))
