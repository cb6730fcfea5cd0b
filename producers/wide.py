"""A stream whose reviews carry a wide text embedding, made from one with a narrow one.

Embeddings of language models have hundreds of channels for what a few directions say: any channel mixes them, some
channels hardly at all, and most of what varies is about other things. So channel c of the wide embedding is

    wide_c = strength_c · (mixture_c · narrow) + (other_c · topics of this text) + noise

    strength   falls like 1 / (1 + k / 8), k a random order of the channels: a few say most, most say next to nothing
    mixture    a random direction in the narrow embedding's space: channels repeat one another
    topics     TOPICS numbers a text, which no label depends on, half as strong as the strongest channel, in every one
    noise      of each channel alone

All else in the events, labels included, stays as it was: the wide stream is as hard as the narrow one.
"""

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

CHANNELS = 256
TOPICS = 8
NOISE = 0.25


def wide_events(lines: Iterable[bytes], seed: int, channels: int = CHANNELS) -> Iterator[bytes]:
    """Yield the events with every `embedding` widened to `channels` numbers: the same for the same seed."""
    rng = np.random.default_rng(seed)
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
    mixing = None
    for line in lines:
        event = decode(line)
        if "embedding" in event:
            narrow = np.array(event["embedding"])
            if mixing is None:
                mixing = _mixing(rng, len(narrow), channels)
            parts = np.concatenate([narrow, rng.normal(size=TOPICS)])
            wide = parts @ mixing + NOISE * rng.normal(size=channels)
            event["embedding"] = wide.round(3).tolist()
            line = encode(event)
        yield line


def _mixing(rng: np.random.Generator, narrow: int, channels: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return how the channels mix the narrow embedding and the topics.  # (narrow + TOPICS, channels)"""
    strength = rng.permutation(1 / (1 + np.arange(channels) / 8))
    mixture = rng.normal(size=(narrow, channels)) / narrow**0.5
    other = rng.normal(size=(TOPICS, channels)) / TOPICS**0.5 / 2
    return np.concatenate([strength * mixture, other])
