"""States without their zeros: most panes of most customers are empty.

The first 64 bytes are kept as they are: the header, which is the same in all layouts and has few
zeros, so that a reader finds a segment without knowing more. Of the rest, in words of eight bytes
(the last one filled up with zeros), there follow, the first bit of each byte being the lowest:

- the map: a bit for each word, 1 if it is not zero, filled up to whole bytes;
- of each such word, a tag: a bit for each of its bytes, 1 if it is not zero;
- all bytes that are not zero.

Tags are those of the packed encoding of Cap'n Proto, which counts zero words where here is a map.
A State has one packed form only, so that equal States are equal bytes.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from segstream.core import compiled

Raw = npt.NDArray[np.uint8]
HEAD = 64
WIDEST = 1 if compiled.functions is None else compiled.functions.widest()
"""Of how many bytes at once this processor gathers what is not zero: what C makes use of."""


def pack(states: Raw, rows: npt.NDArray[np.int64]) -> list[bytes]:
    """The packed form of some rows of uint8 [n, size]."""
    if compiled.functions is not None:
        packed: list[bytes] = compiled.functions.pack(states, rows, states.shape[1], WIDEST)
        return packed
    rest = np.zeros((len(rows), 8 * _words(states.shape[1])), np.uint8)
    rest[:, : states.shape[1] - HEAD] = states[rows, HEAD:]
    there = rest != 0
    tags = np.packbits(there, axis=1, bitorder="little")
    maps = np.packbits(tags != 0, axis=1, bitorder="little")
    fronts = np.concatenate([states[rows, :HEAD], maps], axis=1)
    parts = [fronts, _cut(tags, tags != 0), _cut(rest, there)]
    return [b"".join(three) for three in zip(*parts, strict=True)]


def unpack(blobs: Sequence[bytes | None], size: int) -> tuple[Raw, int]:
    """States, uint8 [n, size], zeros where there is no blob; and the first blob that is no State.

    -1: all are.
    """
    if compiled.functions is not None:
        states = np.empty((len(blobs), size), np.uint8)
        return states, compiled.functions.unpack(list(blobs), states, size, WIDEST)
    states = np.zeros((len(blobs), size), np.uint8)
    found = np.array([i for i, blob in enumerate(blobs) if blob is not None], np.int64)
    some = [blob for blob in blobs if blob is not None]
    read = _unpacked(some, size)
    if read is None:
        return states, next(
            i for i, b in zip(found, some, strict=True) if _unpacked([b], size) is None
        )
    states[found] = read
    return states, -1


def _unpacked(blobs: list[bytes], size: int) -> Raw | None:
    """None: one of them is no State."""
    words = _words(size)
    front = HEAD + -(-words // 8)
    lengths = np.array(list(map(len, blobs)), np.int64)
    if (lengths < front).any():
        return None
    fronts = _joined([blob[:front] for blob in blobs]).reshape(-1, front)
    maps = np.unpackbits(fronts[:, HEAD:], axis=1, bitorder="little").astype(bool)
    behind = front + maps.sum(axis=1)
    if maps[:, words:].any() or (lengths < behind).any():
        return None
    stops = behind.tolist()
    tags = np.zeros((len(blobs), words), np.uint8)
    tags[maps[:, :words]] = _joined([b[front:stop] for b, stop in zip(blobs, stops, strict=True)])
    there = np.unpackbits(tags, axis=1, bitorder="little").astype(bool)
    if there[:, size - HEAD :].any() or (lengths != behind + there.sum(axis=1)).any():
        return None
    rest = np.zeros(there.shape, np.uint8)
    rest[there] = _joined([blob[stop:] for blob, stop in zip(blobs, stops, strict=True)])
    return np.concatenate([fronts[:, :HEAD], rest[:, : size - HEAD]], axis=1)


def _words(size: int) -> int:
    """Words of a State of so many bytes."""
    return -(-(size - HEAD) // 8)


def _cut(values: Raw, there: npt.NDArray[np.bool_]) -> list[bytes]:
    """Of each row the values that are there."""
    flat = values[there].tobytes()
    stops = np.cumsum(there.sum(axis=1)).tolist()
    return [flat[start:stop] for start, stop in pairwise([0, *stops])]


def _joined(parts: list[bytes]) -> Raw:
    return np.frombuffer(b"".join(parts), np.uint8)
