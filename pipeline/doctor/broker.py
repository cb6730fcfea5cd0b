"""The doctor looks at the log: does it answer, are its topics right, and what may this user do there?"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.doctor.finding import Finding, Setup, ok, problem, warning
from pipeline.doctor.topics import look_at_configs
from pipeline.errors import ConfigError
from pipeline.log_url import is_kafka, open_cluster, open_log
from pipeline.report_text import counted

if TYPE_CHECKING:
    from pipeline.kafka_log.client import Cluster

# What a scorer does, in the words of ACLs.
EVENTS, OUTPUTS, JOURNAL = {"READ", "DESCRIBE"}, {"WRITE", "DESCRIBE"}, {"READ", "WRITE", "DESCRIBE"}


def look_at_log(setup: Setup) -> Iterator[Finding]:
    assert setup.log_url is not None
    if not is_kafka(setup.log_url):
        with contextlib.closing(open_log(setup.log_url, setup.config, create=False)) as log:
            yield ok(f"{setup.log_url}, {counted(log.end(setup.config.topics.events), 'event')}")
        return
    cluster = _cluster(setup)
    from pipeline.kafka_log.examine import examine

    setup.facts = examine(cluster, [*setup.feeds, *setup.outputs], setup.config.score.group)
    kafka = setup.config.kafka
    if setup.is_merged and kafka.delivery == "at-least-once":
        raise ConfigError(
            f"kafka.delivery is 'at-least-once', and {setup.config.topics.events} are merged; use exactly-once"
        )
    yield ok(f"{cluster.servers} answers, {counted(setup.facts.brokers, 'broker')}, {kafka.security}, {kafka.delivery}")


def look_at_topics(setup: Setup) -> Iterator[Finding]:
    """Those of Kafka: are they there, with as many partitions each?"""
    if setup.facts is None:
        yield ok("those of a file are made as they are written")
        return
    wanted, there = [*setup.feeds, *setup.outputs], setup.facts.topics
    for name in wanted:
        if name in there and there[name].refused:
            fix = f"let an ACL grant Describe on it to this user; kafka-acls.sh --add ... --topic {name}"
            yield problem(f"{name} cannot be looked at: {there[name].refused}", fix)
    known = {name: there[name].partitions for name in wanted if name in there and not there[name].refused}
    count = known.get(setup.feeds[0], max(known.values(), default=1))
    if missing := [name for name in wanted if name not in there]:
        address = f"{setup.log_url}/{','.join(missing)}"
        yield problem(f"missing: {', '.join(missing)}", f"graphsieve topics create {address} --partitions {count}")
    if len(set(known.values())) > 1:
        told = ", ".join(f"{name} {partitions}" for name, partitions in known.items())
        yield problem(f"they differ in their partitions: {told}", f"make them anew, each with {count}")
    elif len(known) == len(wanted):
        yield ok(f"{', '.join(wanted)}: {counted(count, 'partition')} each")
    setup.partitions = list(range(count))
    yield from look_at_configs(setup)


def look_at_permissions(setup: Setup) -> Iterator[Finding]:
    if setup.facts is None:
        yield from _file_permissions(setup)
        return
    group = setup.config.score.group
    wanted = {f"topic {name}": (EVENTS, setup.facts.topics[name].allowed) for name in setup.feeds}
    wanted |= {f"topic {name}": (OUTPUTS, setup.facts.topics[name].allowed) for name in setup.outputs}
    if setup.is_merged:
        journal = setup.config.topics.journal
        wanted[f"topic {journal}"] = (JOURNAL, setup.facts.topics[journal].allowed)
    lacking = {place: needed - allowed for place, (needed, allowed) in wanted.items() if allowed is not None}
    if setup.facts.group_refused:
        lacking[f"group {group}"] = {"READ"}
    for place, operations in lacking.items():
        if operations:
            told = " and ".join(sorted(operation.capitalize() for operation in operations))
            yield problem(
                f"this user has no {told} on {place}", "add it with kafka-acls.sh; docs/kafka.md lists all ACLs"
            )
    untold = [place for place, (_, allowed) in wanted.items() if allowed is None and place not in lacking]
    if untold:
        yield warning(
            f"the broker does not tell what may be done with {', '.join(untold)}", "see whether a scorer starts"
        )
    refused = _transactional_id(setup)
    if refused is not None:
        yield refused
    elif not untold and not any(lacking.values()):
        yield ok(f"read events, join the group, write outputs, commit (tried with the id graphsieve-{group}-doctor)")


def _file_permissions(setup: Setup) -> Iterator[Finding]:
    path = Path((setup.log_url or "").removeprefix("sqlite:").removeprefix("file:"))
    if os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK):
        yield ok(f"{path} and its folder can be written to")
    else:
        yield problem(
            f"{path} or its folder cannot be written to", "scores go into the same file: let this user write it"
        )


def _transactional_id(setup: Setup) -> Finding | None:
    from pipeline.kafka_log.client import explain
    from pipeline.kafka_log.examine import try_transactional_id

    group = setup.config.score.group
    error = try_transactional_id(_cluster(setup), group)
    if error is None:
        return None
    found = f"no transaction may be begun: {explain(error).partition(';')[0]}"
    return problem(found, f"let an ACL grant Write on the transactional ids that begin with graphsieve-{group}-")


def look_at_group(setup: Setup) -> Iterator[Finding]:
    """Where the group stands, and whether a start would find what it has to replay."""
    assert setup.log_url is not None
    group, facts = setup.config.score.group, setup.facts
    if facts is not None and setup.config.kafka.instance in [name for name in facts.instances if name]:
        instance = setup.config.kafka.instance
        found = f"{group} has a member named {instance!r} already: a second one pushes it out"
        yield warning(found, "well so if that is the one you look at; else choose another kafka.instance")
    members = f"{counted(len(facts.instances), 'member')}, " if facts is not None else ""
    if setup.is_merged:
        yield ok(f"{group}: {members}positions of merged topics are in their journal")
        return
    behind = 0
    for partition in setup.partitions:
        with contextlib.closing(open_log(setup.log_url, setup.config, create=False, partition=partition)) as log:
            topic = setup.config.topics.events
            begin, end, (start, position) = log.begin(topic), log.end(topic), log.committed(group, topic)
        behind += max(0, end - position)
        yield from _can_go_on(setup, partition or 0, begin, end, start, position)
    yield ok(f"{group}: {members}{counted(behind, 'message')} behind")


def _can_go_on(setup: Setup, partition: int, begin: int, end: int, start: int, position: int) -> Iterator[Finding]:
    """Tell of a shard that cannot be rebuilt: its log lacks what is behind the newest snapshot that can be used."""
    topic, anew = setup.config.topics.events, "begin anew with another --group and an empty --state"
    if end < position:
        yield problem(f"{topic} {partition} ends at {end}, the group stands at {position}: messages were lost", anew)
        return
    ours = [kept for shard, kept in setup.snapshots.items() if not shard or shard.startswith(f"{topic}-{partition}@")]
    version = setup.model.version if setup.model else None
    usable = [m.position for kept in ours for m in kept if version in (None, m.model) and m.position <= position]
    first = max(usable, default=start)
    if first < min(begin, position) and setup.state is not None:
        found = f"{topic} {partition} begins at {begin}, a start has to replay from {first}: retention has removed that"
        yield problem(found, f"restore a newer snapshot, or {anew}; and keep the topic longer (retention.ms)")


def _cluster(setup: Setup) -> "Cluster":
    assert setup.log_url is not None
    return open_cluster(setup.log_url, setup.config)
