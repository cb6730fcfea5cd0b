"""Keys by a field: what belongs together goes to the same partition of a topic.

    a message that has the field                     its value is the key, of the message and from now on of its id
    one without: a label, score, retract or edge     the key of the id that it is about (of an edge: src)
    one that is no JSON object                       the key that it came with; it is bad wherever it goes

Every id is remembered with its key: some 150 bytes each.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pipeline.errors import ConfigError
from pipeline.log import JSON, PACKED, TOMBSTONE, Record
from pipeline.schema import Schema
from pipeline.sections import Events, text_of

# What cannot have a key by a field, and why.
_KEYLESS = {
    PACKED: "is packed: its events may have several keys; replay what it was packed from, or leave out --key",
    TOMBSTONE: "is a tombstone: its key is the id of what is gone, and has to stay; leave out --key",
}


def keyed(source: Iterable[Record], field: str, schema: Schema | None = None) -> Iterator[Record]:
    """Give each message the key that `field`, a dotted path in its JSON, says; ConfigError where nothing says one.

    `schema` says where an application's own messages hold their type and ids.
    """
    keys = _Keys(field, schema)
    for number, record in enumerate(source, start=1):
        if why := _KEYLESS.get(record.content_type):
            raise ConfigError(f"message {number} {why}")
        message = _json_object(record)
        yield record if message is None else record._replace(key=keys.of(message, number, record.topic))


def with_keys(source: Iterable[Record], partitions: int) -> Iterator[Record]:
    """Yield the messages as they are; ConfigError at one without a key, which could go to any of the partitions."""
    for number, record in enumerate(source, start=1):
        if record.key is None:
            raise ConfigError(
                f"message {number} has no key, and the topic has {partitions} partitions: name the field by which "
                "events belong together, as in --key product"
            )
        yield record


class _Keys:
    """Tells each message's key, and remembers those of ids."""

    def __init__(self, field: str, schema: Schema | None) -> None:
        if not all(field.split(".")):
            raise ConfigError(f"key {field!r} is no path; write field names with dots between, like 'user.id'")
        self._field, self._schema = field, schema
        self._words: dict[str, Events] = {}  # by topic
        self._key_of: dict[str, str] = {}  # id -> key

    def of(self, message: dict[str, Any], number: int, topic: str) -> str:
        value, about = _at(message, self._field), self._id(message, topic)
        if value is None:
            return self._remembered(about, number)
        if isinstance(value, dict | list):
            kind = "a list" if isinstance(value, list) else "an object"
            raise ConfigError(f"message {number}: {self._field!r} is {kind}, a key is a text or a number; name another")
        key = sys.intern(text_of(value))  # one text for all ids of this key
        if about is not None:
            self._key_of[about] = key
        return key

    def _remembered(self, about: str | None, number: int) -> str:
        if about is not None and about in self._key_of:
            return self._key_of[about]
        what = "names no id" if about is None else f"no message before it tells the {self._field!r} of {about!r:.80}"
        raise ConfigError(f"message {number} has no {self._field!r}, and {what}: name a field that every node has")

    def _id(self, message: dict[str, Any], topic: str) -> str | None:
        """Return the id of the node that a message is about."""
        words = self._words.get(topic) or self._words.setdefault(topic, self._words_of(topic))
        word = _at(message, words.type)
        kind = words.default_type if word is None else words.types.get(text_of(word), word)
        id, src = (_at(message, words.fields.get(name, name)) for name in ("id", "src"))
        about = src if kind == "edge" or id is None else id
        return None if about is None else text_of(about)

    def _words_of(self, topic: str) -> Events:
        return Events() if self._schema is None else self._schema.of_topic(topic).events


def _json_object(record: Record) -> dict[str, Any] | None:
    if not record.content_type.startswith(JSON):
        return None
    try:
        message = msgspec.json.decode(record.value)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _at(message: dict[str, Any], path: str) -> Any:
    """Return what a message holds at a dotted path; None where there is nothing."""
    place: Any = message
    for name in path.split("."):
        if not isinstance(place, dict):
            return None
        place = place.get(name)
    return place
