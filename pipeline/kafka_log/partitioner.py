"""Where a key leads: the partition that Kafka's clients choose for a message that names none."""

from functools import lru_cache

from kafka.partitioner.default import murmur2


@lru_cache(maxsize=100_000)  # keys come again and again, and the hash is slow
def partition_of(key: str | None, partitions: int) -> int:
    """Return the partition of a message with this key; -1 for one without: it may go to any."""
    if key is None:
        return -1
    return int(murmur2(key.encode(errors="surrogateescape")) & 0x7FFFFFFF) % partitions
