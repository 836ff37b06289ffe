"""Hash slots of a Redis Cluster: which of them a partition has, and who holds it.

All keys of a partition contain `{<number>}`, and Redis hashes only what stands in the braces: so
the slot of a partition is the same in every namespace.
"""

from binascii import crc_hqx
from bisect import bisect_left, bisect_right
from functools import lru_cache
from math import ceil

SLOTS = 16_384
Range = tuple[int, int]
"""First and last slot."""


def slot_of(partition: int) -> int:
    """CRC-16/XMODEM of the number in decimal, mod 16,384, as the Redis Cluster specification
    says."""
    return crc_hqx(str(partition).encode(), 0) % SLOTS


def equal_ranges(shards: int) -> list[Range]:
    """As `redis-cli --cluster create` gives them out."""
    ends = [round((number + 1) * SLOTS / shards - 1) for number in range(shards - 1)]
    return _ranges([0, *(end + 1 for end in ends)])


def even_ranges(partitions: int, shards: int) -> list[Range]:
    """Ranges with which each shard gets as many partitions as any other, or one more.

    Needs at least as many partitions as shards.
    """
    slots = _slots(partitions)
    # A shard begins with the slot of its first partition.
    return _ranges([0, *(slots[ceil(n * partitions / shards)] for n in range(1, shards))])


def _ranges(starts: list[int]) -> list[Range]:
    return list(zip(starts, [start - 1 for start in starts[1:]] + [SLOTS - 1], strict=True))


def shares(partitions: int, ranges: list[Range]) -> list[int]:
    """How many partitions each shard gets."""
    slots = _slots(partitions)
    return [bisect_right(slots, last) - bisect_left(slots, first) for first, last in ranges]


@lru_cache(maxsize=8)
def _slots(partitions: int) -> list[int]:
    return sorted(map(slot_of, range(partitions)))
