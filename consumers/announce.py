"""The first line of a scoring process: which versions run with which settings, without a secret."""

from typing import Any

from pipeline.config import Config
from pipeline.logs import Line, line
from pipeline.model import Model
from pipeline.snapshot_files import shown
from pipeline.versions import versions


def start_line(model: Model, log_url: str, state: str, config: Config) -> Line:
    """Say what starts here; as fields, whatever one asks for when a consumer misbehaves."""
    found, score, topics, kafka = versions(), config.score, config.topics, config.kafka
    about: dict[str, Any] = {
        "model": model.version,
        "schema": model.schema.name,
        "log": shown(log_url),
        "state": shown(state),
        "group": score.group,
        "topic": topics.events,
        "scores": topics.scores,
        "dead_letters": topics.dead_letters,
        "delivery": kafka.delivery,
        "client": kafka.client,
        "security": kafka.security,
        "instance": kafka.instance or None,
        "device": score.device,
        "max_batch": score.max_batch,
        "max_wait": score.max_wait,
        "snapshot_every": score.snapshot_every,
        "stop": score.stop,
        "metrics": f"http://{config.metrics.host}:{config.metrics.port}" if config.metrics.port else None,
    }
    text = (
        f"version {found.get('graphsieve', 'of a folder')} on Python {found['python']}: model {model.version} "
        f"({model.schema.name}), {topics.events} of {shown(log_url)} to {topics.scores} and {topics.dead_letters}, "
        f"group {score.group}, state {shown(state)}"
    )
    return line(text, **about, versions=found)
