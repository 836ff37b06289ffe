"""What is compiled computes what numpy and msgspec compute, bit for bit."""

import os
import shutil
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import DataError
from redis.connection import HiredisRespSerializer

from segstream.core import compiled
from segstream.core.event import _coded
from segstream.core.hash import murmur2
from segstream.core.model import Model
from segstream.core.output import numbers
from segstream.core.row import _suspects
from segstream.core.segment import decide
from segstream.shell.redis_client import Packer, connect
from tests.streams import generate
from tests.test_core_oracle import core_of

SEEDS = range(20)
needed = pytest.mark.skipif(compiled.functions is None, reason="nothing is compiled here")


def test_it_is_compiled_where_there_is_a_compiler() -> None:
    if not os.environ.get("CI") and shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    assert compiled.functions is not None, "segstream was installed without compiled code"


def both(compute: Callable[[], Any]) -> tuple[Any, Any]:
    """What is computed with and without compiled functions."""
    with_them = compute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "functions", None)
        return with_them, compute()


@needed
@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_leads_to_the_same_bytes(seed: int) -> None:
    stream = generate(seed, disputed=seed % 3 == 2)
    mine, theirs = both(lambda: core_of(stream, Random(seed)))
    assert mine.outputs == theirs.outputs
    assert mine.states() == theirs.states()
    assert mine.checkpoint == theirs.checkpoint


FLOATS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 1e-30])


@needed
@given(st.lists(st.lists(FLOATS, min_size=7, max_size=7), max_size=20), st.integers(1, 8))
def test_distances(rows: list[list[float]], segments: int) -> None:
    space = np.array(rows, np.float32).reshape(-1, 7)
    known = object.__new__(Model)
    known.centres = np.random.default_rng(segments).normal(0, 3, (segments, 7))
    mine, theirs = both(lambda: known.distances(space))
    assert mine.tobytes() == theirs.tobytes()


@needed
@given(st.lists(st.text(max_size=40)))
def test_ids(ids: list[str]) -> None:
    raw = [i.encode(errors="replace") for i in ids]
    mine, theirs = both(lambda: murmur2(raw))
    assert mine.tolist() == theirs.tolist()
    (some, code), (other, numbers) = both(lambda: _coded(ids))
    assert (some, code.tolist()) == (other, numbers.tolist())


RAW = (
    st.floats(width=32)
    | st.floats(-20, 20, width=32)
    | st.integers(-(10**8), 10**8).map(lambda cents: float(np.float32(cents / 100)))
)


@needed
@given(st.lists(st.tuples(RAW, RAW)))
@example([(0.0, -0.0), (2.0**24, 2.0**24 - 1), (1e-5, 0.1)])
def test_values_in_few_digits(rows: list[tuple[float, float]]) -> None:
    values = np.array(rows, np.float32).reshape(-1, 2)
    mine, theirs = both(lambda: numbers(values))
    assert [*map(repr, mine.ravel().tolist())] == [*map(repr, theirs.ravel().tolist())]


HASHES = st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1])


@needed
@given(
    st.lists(st.lists(HASHES, min_size=4, max_size=4), min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), HASHES)),
)
def test_suspects_are_the_same_or_more(
    rings: list[list[int]], events: list[tuple[int, int]]
) -> None:
    """An id too many is only looked at; none may be missing."""
    known = np.array(rings, np.uint64)
    code = np.array([customer for customer, _ in events], np.int64)
    messages = np.array([message for _, message in events], np.uint64)
    for found in both(lambda: _suspects(known, code, messages)):
        seen = [set(ring) for ring in rings]
        for i, (customer, message) in enumerate(events):
            if message in seen[customer]:
                assert found is not None
                assert found[i]
            seen[customer].add(message)


DECISION = {
    "segment": st.sampled_from([0, 2, 3, 5, 9]),
    "stamp": st.sampled_from([1, 2]),
    "sequence": st.just(7),
    "pending": st.sampled_from([0, 0, 3, 5]),
    "since": st.just(11),
    "pending_since": st.sampled_from([0, 40, 50]),
}
ROW = st.tuples(
    st.booleans(), st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0]), min_size=3, max_size=3)
)


@needed
@given(
    st.lists(st.tuples(st.fixed_dictionaries(DECISION), st.lists(ROW, min_size=1, max_size=4))),
    st.sampled_from([0, 20]),
    st.sampled_from([2, 9]),
)
def test_decisions(groups: list[tuple[Any, list[Any]]], newcomer: int, agreed: int) -> None:
    """Segments 2, 3 and 5, of version 2; distances with ties, and on the borders of the rules."""
    dtype = np.dtype([(name, "<i8" if "since" in name else "<u4") for name in DECISION])
    states = np.array([tuple(d[name] for name in DECISION) for d, _ in groups], dtype)
    states["pending_since"][states["pending"] == 0] = 0
    every = [row for _, rows in groups for row in rows]
    first = np.cumsum([0, *(len(rows) for _, rows in groups)])[:-1]
    numbers = np.arange(len(every))
    group = np.repeat(np.arange(len(groups)), [len(rows) for _, rows in groups]).astype(np.int64)
    at = 50 + 10 * (numbers - first[group])
    event = np.where(np.array([is_event for is_event, _ in every], bool), numbers, -1)
    rows: Any = SimpleNamespace(first=first, group=group, at=at, event=event)
    known = object.__new__(Model)
    known.version, known.ids = 2, np.array([2, 3, 5])
    known.index = {2: 0, 3: 1, 5: 2}
    distances = np.array([row for _, row in every], np.float64).reshape(-1, 3)
    rules: Any = SimpleNamespace(clear=0.5, held=0.75, hold_ms=10, first_ms=newcomer)
    asked = []

    def nearest_under(version: int, row: int) -> int:
        asked.append((version, row))
        return agreed

    def compute() -> Any:
        mine = states.copy()
        found = decide(mine, rows, known, distances, rules, nearest_under)
        return found[0], found[1].tolist(), mine.tobytes(), [asked.pop(0) for _ in asked[:]]

    mine, theirs = both(compute)
    assert mine == theirs


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("murmur2", ([b"a"], np.zeros(2, np.uint32))),
        ("murmur2", (["a"], np.zeros(1, np.uint32))),
        ("murmur2", ([b"a"], np.zeros(1, np.uint64))),
        ("murmur2", ([b"a"],)),
        ("coded", ([[]], np.zeros(1, np.int64))),
        ("distances", (np.zeros((1, 2), np.float32), np.zeros((1, 3)), np.zeros((1, 1)))),
        ("unpack", ([b"1"], np.zeros((2, 8), np.uint8), 8, 1)),
        ("unpack", ([1], np.zeros((1, 8), np.uint8), 8, 1)),
        ("rotate", (np.zeros((1, 2), np.uint16), np.zeros(1, np.int64), 3)),
    ],
)
@needed
def test_arguments_that_do_not_fit_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        getattr(compiled.functions, name)(*arguments)


ARGUMENTS = st.text() | st.binary() | st.integers() | st.floats() | st.binary().map(bytearray)


def packed_by(packer: Any, command: tuple[Any, ...]) -> Any:
    """In one piece; or the kind of error."""
    try:
        return b"".join(packer.pack(*command))
    except (UnicodeEncodeError, DataError) as error:
        return type(error)


@needed
@given(st.sampled_from(["MSET", b"GET", "CONFIG GET", b"A B", " "]), st.lists(ARGUMENTS))
def test_commands_are_those_of_the_library(name: str | bytes, arguments: list[Any]) -> None:
    command = (name, *arguments)
    mine = packed_by(Packer(compiled.functions), command)
    assert mine == packed_by(HiredisRespSerializer(), command)


@needed
@pytest.mark.parametrize("length", [0, 9, 10, 99, 100, 99_999, 100_000])
def test_lengths_of_commands(length: int) -> None:
    command = ("SET", "k" * length, bytes(length), *["more"] * (length % 1_000))
    mine = packed_by(Packer(compiled.functions), command)
    assert mine == packed_by(HiredisRespSerializer(), command)


def test_redis_is_asked_in_commands_packed_here() -> None:
    """The library hands the packer to its connections."""
    client: Any = connect("redis://localhost:1")
    packer = client.connection_pool.make_connection()._command_packer
    assert isinstance(packer, Packer) == (compiled.functions is not None)
