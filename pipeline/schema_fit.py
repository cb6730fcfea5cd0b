"""Does a schema fit the topics that are read?"""

from pipeline.errors import ConfigError
from pipeline.misfit import did_you_mean
from pipeline.schema import Schema


def check_topics(schema: Schema, events: str) -> None:
    """Refuse a schema with words for a topic that is not read: most likely one of the two names is misspelt.

    events  the knob topics.events: one topic, or several with commas between
    """
    read = events.split(",")
    for topic in schema.topics:
        if topic not in read:
            raise ConfigError(
                f"the model's schema has [events.topics.{topic}], but topics.events is {events!r}: "
                f"{did_you_mean(topic, read)}"
            )
