from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

class Skimmer:
    def __new__(cls, nodes: tuple[Any, ...], kinds: tuple[Any, ...], fields: int) -> Skimmer: ...
    def read(
        self,
        values: list[bytes | None],
        wanted: Array,
        record: Array,
        time: Array,
        kind: Array,
        numbers: Array,
    ) -> tuple[int, list[str], Sequence[str | None], list[str]]: ...

def coded(ids: list[str], code: Array) -> list[str]: ...
def murmur2(ids: list[bytes], hashes: Array) -> None: ...
def widest() -> int: ...
def pack(states: Array, rows: Array, size: int, widest: int) -> list[bytes]: ...
def unpack(blobs: list[bytes | None], states: Array, size: int, widest: int) -> int: ...
def rotate(rings: Array, behind: Array, pane: int) -> None: ...
def advance(
    rings: Array,
    now: int,
    first: Array,
    slot: Array,
    age: Array,
    added: Array,
    windows: Array,
    units: Array,
    sums: Array,
) -> int: ...
def distances(space: Array, centres: Array, total: Array) -> None: ...
def shortest(values: Array, numbers: Array) -> None: ...
def decide(
    segment: Array,
    since: Array,
    stamp: Array,
    sequence: Array,
    pending: Array,
    pending_since: Array,
    rules: tuple[int, float, float, int, int],
    nearest_under: Callable[[int, int], int],
    first: Array,
    at: Array,
    event: Array,
    distances: Array,
    ids: Array,
    changed: Array,
    moves: Array,
) -> int: ...
def suspects(rings: Array, code: Array, messages: Array, suspect: Array) -> bool: ...
def accept(
    ids: Array,
    accepted: Array,
    last: Array,
    first: Array,
    event: Array,
    time: Array,
    messages: Array,
    total: Array,
) -> None: ...
