"""Hashes that are part of the contract: partition of an id, hash of a customer, hash of a message.

All are stable across processes and releases; changing one changes the layout.
"""

import zlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from segstream.core import compiled

Partitioner = Literal["murmur2", "crc32"]

_M = np.uint32(0x5BD1E995)
_SEED = np.uint32(0x9747B28C)


def murmur2(ids: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Kafka's MurmurHash2 (org.apache.kafka.common.utils.Utils.murmur2) of many ids at once.

    Column by column over the 4-byte words, so the cost follows the longest id, not their number.
    """
    if compiled.functions is not None:
        hashes = np.empty(len(ids), np.uint32)
        compiled.functions.murmur2(list(ids), hashes)
        return hashes
    lengths = np.fromiter(map(len, ids), np.uint32, len(ids))
    words = (int(lengths.max(initial=0)) + 3) // 4
    if words == 0:
        padded = np.zeros((len(ids), 0), "<u4")
    else:
        padded = np.array(ids, f"S{words * 4}").view("<u4").reshape(len(ids), words)
    h = _SEED ^ lengths
    whole = lengths >> np.uint32(2)
    of_all = int(whole.min(initial=words))  # words that even the shortest id has
    mixed = padded * _M
    mixed = (mixed ^ (mixed >> np.uint32(24))) * _M
    for column in range(words):
        further = (h * _M) ^ mixed[:, column]
        h = further if column < of_all else np.where(column < whole, further, h)
    tail = lengths & np.uint32(3)
    # Bytes behind the end are zero in the padding, so the tail is the last word as it stands.
    if words:
        last = padded[np.arange(len(ids)), np.minimum(whole, words - 1)]
        h = np.where(tail > 0, (h ^ last) * _M, h)
    h = (h ^ (h >> np.uint32(13))) * _M
    return np.asarray(h ^ (h >> np.uint32(15)), np.uint32)


def _by_murmur2(ids: Sequence[bytes], partitions: int) -> npt.NDArray[np.int64]:
    return (murmur2(ids) & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def _by_crc32(ids: Sequence[bytes], partitions: int) -> npt.NDArray[np.int64]:
    return np.fromiter(map(zlib.crc32, ids), np.int64, len(ids)) % partitions


PARTITIONERS: dict[Partitioner, Callable[[Sequence[bytes], int], npt.NDArray[np.int64]]] = {
    "murmur2": _by_murmur2,
    "crc32": _by_crc32,
}


def partitions_of(
    ids: Sequence[bytes], partitions: int, partitioner: Partitioner
) -> npt.NDArray[np.int64]:
    """The partition each raw id belongs on, as the named producer default would choose it."""
    return PARTITIONERS[partitioner](ids, partitions)


def customer_hash(customer: str) -> int:
    """BLAKE2b-64, big-endian: decides a customer's minute and panel level."""
    return int.from_bytes(blake2b(customer.encode(), digest_size=8).digest(), "big")


def level_of(hash64: int) -> int:
    """Panel level: leading zero bits of the customer's 64-bit hash (0…64)."""
    return 64 - hash64.bit_length()


def message_hashes(messages: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """XXH3-64 of message ids, as kept in the ring of accepted ids."""
    return np.fromiter(map(xxh3_64_intdigest, messages), np.uint64, len(messages))
