"""The doctor looks at how topics of Kafka are kept: long enough for what a start replays, and whole."""

import math
from collections.abc import Iterator, Mapping

from pipeline.doctor.finding import Finding, Setup, problem, warning

FOREVER = "-1"
OUTPUT_BYTES = 2**20  # our largest messages are a little smaller; the brokers' own limit is this


def look_at_configs(setup: Setup) -> Iterator[Finding]:
    """Tell what is wrong with the settings of topics; nothing where the user may not see them."""
    topics, there = setup.config.topics, setup.facts.topics if setup.facts else {}
    configs = {name: topic.configs for name, topic in there.items() if topic.configs}
    for name in setup.feeds:
        yield from _events(name, configs.get(name, {}), setup.model.schema.ttl if setup.model else math.inf)
    for name in setup.outputs:
        yield from _output(name, configs.get(name, {}))
    if _is_compacted(configs.get(topics.scores, {})):
        if setup.config.scores.format == "packed":
            yield problem(f"{topics.scores} is compacted, and packed scores have no key", f"{_delete(topics.scores)}")
        else:
            found = f"{topics.scores} is compacted: of a node's scores only the newest stays"
            yield warning(found, "well so if readers want no more; quality and audit judge what is left")
    if setup.is_merged:
        yield from _journal(setup, configs)
    if setup.facts is not None and setup.facts.brokers > 1:
        single = [name for name, topic in there.items() if topic.replicas == 1]
        if single:
            yield warning(f"{', '.join(single)}: one replica each", "with a broker its messages are lost: use three")


def _events(name: str, config: Mapping[str, str], ttl: float) -> Iterator[Finding]:
    if _is_compacted(config):
        yield warning(f"{name} is compacted: events that scores rest on will be removed", _delete(name))
    kept = _kept_seconds(config)
    if kept < ttl:
        wanted = "for ever (the schema has no ttl)" if math.isinf(ttl) else f"{ttl / 86400:g} days (the schema's ttl)"
        found = f"{name} keeps events for {kept / 86400:g} days: without a snapshot no more can be rebuilt"
        yield warning(found, f"keep them {wanted}: retention.ms; or keep snapshots on a volume that lasts")
    if config.get("retention.bytes", FOREVER) != FOREVER:
        found = f"{name} keeps at most {int(config['retention.bytes']):,} bytes a partition"
        yield warning(found, "see that these are more than what comes between two snapshots, or set retention.bytes=-1")


def _output(name: str, config: Mapping[str, str]) -> Iterator[Finding]:
    if int(config.get("max.message.bytes", OUTPUT_BYTES)) < OUTPUT_BYTES:
        found = f"{name} takes messages up to {int(config['max.message.bytes']):,} bytes, ours may be larger"
        yield warning(found, f"set max.message.bytes={OUTPUT_BYTES}")


def _journal(setup: Setup, configs: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    name = setup.config.topics.journal
    config = configs.get(name, {})
    if _is_compacted(config):
        yield problem(f"{name} is compacted: the order of merged events would be lost", _delete(name))
    if _kept_seconds(config) < max(_kept_seconds(configs.get(feed, {})) for feed in setup.feeds):
        found = f"{name} is kept for {_kept_seconds(config) / 86400:g} days, the events longer"
        yield warning(found, "keep it as long as they are: retention.ms=-1; it is small")


def _is_compacted(config: Mapping[str, str]) -> bool:
    return "compact" in config.get("cleanup.policy", "")


def _kept_seconds(config: Mapping[str, str]) -> float:
    """Return how long a topic keeps messages; for ever where nobody says."""
    kept = config.get("retention.ms", FOREVER)
    if kept == FOREVER or config.get("cleanup.policy", "delete") == "compact":
        return math.inf
    return int(kept) / 1000


def _delete(name: str) -> str:
    return f"set cleanup.policy=delete on {name}, and give it the retention that you want"
