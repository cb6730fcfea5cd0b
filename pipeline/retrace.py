"""A score as it was made: the log replayed up to its event, and all that the node read then.

The event is applied alone, in a micro-batch of its own, which changes no score; the lists that it read are looked at
right after it, without the node itself, so they are those that it read: the graph as of the event, nothing later.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.decoder import Decoder
from pipeline.errors import LogError, UnsoundSnapshot
from pipeline.events import NODE, SCORE, EventBatch
from pipeline.explain import Floats, Seen
from pipeline.graph_state import APPLIED
from pipeline.log import Log, check_history, read_to_end
from pipeline.model import Model
from pipeline.scorer import Scored, Scorer
from pipeline.snapshot_store import SnapshotStore

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass
class ListThen:
    """A list as a node read it: its M members without the node itself, the newest first."""

    key: str | None  # of a group; None for a node's neighbours, and where the node is in no group
    ids: list[str]
    ts: npt.NDArray[np.float64]
    label: npt.NDArray[np.int8]  # 1 spam, 0 not, -1 not judged by then
    score: npt.NDArray[np.float64]  # its newest one by then; nan where none was made in what was replayed


@dataclass
class Moment:
    """One score, and what it rests on."""

    id: str
    kind: int  # NODE or SCORE
    ts: float
    position: int
    index: int
    now: float  # the watermark, from which ages count
    score: float
    seen: Seen  # B = 1
    own: Floats | None  # raw own channels; None where the node's event lies before what was replayed
    lists: list[ListThen]  # by relation


def find_moment(
    model: Model,
    log: Log,
    group: str,
    topic: str,
    name: str,
    position: int | None = None,
    store: SnapshotStore | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Moment:
    """Return the score of node `name` made by the event at `position`, or else its last one; LogError if there is none.

    store  snapshots to begin at, where one is sound and before the event; without one the log is replayed from its
           beginning
    """
    end = log.end(topic) if position is None else min(position + 1, log.end(topic))
    met: Counter[str] = Counter()
    for scorer, start in _starts(model, log, group, topic, end, store, say):
        replay = _Replay(model, scorer, name, position, met)
        for records in read_to_end(log, topic, start, end):
            replay.apply(replay.decoder.decode(records)[0])
            if records:
                progress(records[-1].position + 1 - start, end - start)
        if replay.moment:
            return replay.moment
        if position is not None:
            break
        end = start  # its last score may be older than the snapshot
    raise LogError(_nothing(name, topic, position, met))


def _starts(
    model: Model, log: Log, group: str, topic: str, end: int, store: SnapshotStore | None, say: Say
) -> Iterator[tuple[Scorer, int]]:
    """Yield where to begin: each snapshot of the model before `end`, the newest first, then the log's beginning."""
    for name in store.names() if store else []:
        assert store is not None
        try:
            manifest = store.read_manifest(name)
            if manifest.model != model.version or manifest.position >= end:
                continue
            scorer = Scorer(model)
            scorer.restore(store.read_arrays(name, manifest))
        except UnsoundSnapshot as error:
            say(f"{error}; taking an older one, or replaying from the start")
            continue
        yield scorer, manifest.position
    check_history(log, group, topic)
    yield Scorer(model), log.begin(topic)


class _Replay:
    """Applies events, those of one node alone."""

    def __init__(self, model: Model, scorer: Scorer, name: str, position: int | None, met: Counter[str]) -> None:
        self.moment: Moment | None = None  # the last one that was asked for
        self.decoder = Decoder(model.schema)
        self._scorer, self._name, self._position = scorer, name, position
        self._scores: dict[str, float] = {}
        self._own: Floats | None = None
        self._met = met  # what was found of the node, to say why nothing was scored

    def apply(self, events: EventBatch) -> None:
        start = 0
        for i in [i for i, name in enumerate(events.id) if name == self._name and events.kind[i] in (NODE, SCORE)]:
            self._score(events.part(start, i))
            self._event(events.part(i, i + 1))
            start = i + 1
        self._score(events.part(start, len(events)))

    def _score(self, events: EventBatch) -> None:
        if not len(events):
            return
        scored = self._scorer.score(events)
        self._scores |= zip(events.id[scored.event].known(), scored.score.tolist(), strict=True)

    def _event(self, event: EventBatch) -> None:
        """Apply one event of the node."""
        seen: list[Seen] = []
        scored = self._scorer.score(event, lambda read, score: seen.append(read))
        applied = scored.outcome[0] == APPLIED
        if applied and event.kind[0] == NODE:
            self._own = event.features[0]
        wanted = self._position is None or event.position[0] == self._position
        self._met["scored" if len(scored.score) else "not a target" if applied else "not applied"] += 1
        if len(scored.score) and wanted:
            self.moment = self._moment(event, scored, seen[0])
        self._scores |= dict.fromkeys([self._name] * len(scored.score), float(scored.score.sum()))

    def _moment(self, event: EventBatch, scored: Scored, seen: Seen) -> Moment:
        row = int(scored.row[0])
        lists = [self._list(own, row) for own in self._scorer.graph.lists_of(scored.row)[0].tolist()]
        return Moment(
            id=self._name, kind=int(event.kind[0]), ts=float(event.ts[0]), position=int(event.position[0]),
            index=int(event.index[0]), now=self._scorer.graph.watermark, score=float(scored.score[0]), seen=seen,
            own=self._own, lists=lists,
        )  # fmt: skip

    def _list(self, own: int, row: int) -> ListThen:
        graph = self._scorer.graph
        if own < 0:
            return ListThen(None, [], np.zeros(0), np.zeros(0, np.int8), np.zeros(0))
        key = graph.group_keys([own])[0]
        members = graph.members_of(own)
        others = members.row != row
        ids = graph.ids_of(members.row[others])
        score = np.array([self._scores.get(name, np.nan) for name in ids], np.float64)
        return ListThen(key, ids, members.ts[others], members.label[others], score)


def _nothing(name: str, topic: str, position: int | None, met: Counter[str]) -> str:
    if not met:
        hint = "see how it is spelt, and in which --partition it is"
        upto = "" if position is None else f" up to position {position}"
        return f"no event of node {name!r} in topic {topic!r}{upto}: {hint}"
    if met["scored"]:
        hint = "name the position of one of its scores, or leave --position out for its last one"
        return f"position {position} of topic {topic!r} holds no event that scored node {name!r}: {hint}"
    why = "its events are no targets" if met["not a target"] else "its events are duplicates, or older than the ttl"
    return f"node {name!r} was never scored: {why}; a `score` event asks for a score"
