"""States without their zeros: the form, all ways to it, and bytes that are none."""

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core import compiled, packing

WAYS: dict[str, tuple[ModuleType | None, int]] = {"numpy": (None, 1)}
"""With which functions, and how many bytes at once, where not every processor can."""
if compiled.functions is not None:
    widths = [width for width in (1, 8, 64) if width <= packing.WIDEST]
    WAYS |= {f"compiled, {width}": (compiled.functions, width) for width in widths}


def go(by: str, patch: pytest.MonkeyPatch) -> None:
    functions, widest = WAYS[by]
    patch.setattr(compiled, "functions", functions)
    patch.setattr(packing, "WIDEST", widest)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    go(request.param, monkeypatch)


@st.composite
def states(draw: st.DrawFn) -> packing.Raw:
    """Some States of one size, with many zeros."""
    size = draw(st.integers(packing.HEAD, 200))
    rows = draw(st.integers(0, 4))
    empty = st.just(bytes(size))
    dense = st.binary(min_size=size, max_size=size)
    thin = st.lists(st.sampled_from([0] * 12 + [1, 255]), min_size=size, max_size=size).map(bytes)
    chosen = draw(st.lists(empty | dense | thin, min_size=rows, max_size=rows))
    return np.frombuffer(bytearray(b"".join(chosen)), np.uint8).reshape(rows, size)


def all_of(raw: packing.Raw) -> list[bytes]:
    return packing.pack(raw, np.arange(len(raw)))


def test_the_form(way: None) -> None:
    header = bytes([7, 0, 0, 9]) * 16
    state = header + bytes(8) + bytes([0, 5, 0, 0, 0, 0, 0, 6]) + bytes([0, 0, 8])
    raw = np.frombuffer(bytearray(state), np.uint8)[np.newaxis]
    (packed,) = all_of(raw)
    head, words, tags, values = packed[:64], packed[64:65], packed[65:67], packed[67:]
    assert (head, values) == (header, bytes([5, 6, 8]))
    assert words == bytes([0b110])  # the first word is zero
    assert tags == bytes([0b10000010, 0b100])
    back, wrong = packing.unpack([None, packed], len(state))
    assert (back[0].any(), back[1].tobytes(), wrong) == (False, state, -1)


@given(states(), st.data())
def test_all_ways_agree(raw: packing.Raw, data: st.DataObject) -> None:
    size, found = raw.shape[1], []
    rows = np.array(data.draw(st.permutations(range(len(raw)))), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        for by in WAYS:
            go(by, patch)
            packed = packing.pack(raw, rows)
            back, wrong = packing.unpack(packed, size)
            assert wrong == -1
            np.testing.assert_array_equal(back, raw[rows])
            found.append(packed)
    assert all(packed == found[0] for packed in found)


@given(states(), st.data())
def test_what_is_no_state_is_found(raw: packing.Raw, data: st.DataObject) -> None:
    """Any bytes are a State, and then the same one for all ways, or the first that is none."""
    blobs: list[bytes | None] = [*all_of(raw)]
    for _ in range(data.draw(st.integers(1, 2))):
        near = st.sampled_from([b for b in blobs if b] or [b""]).flatmap(broken)
        blobs.insert(data.draw(st.integers(0, len(blobs))), data.draw(near | st.binary()))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for by in WAYS:
            go(by, patch)
            back, wrong = packing.unpack(blobs, raw.shape[1])
            found.append((wrong, back.tobytes() if wrong < 0 else b""))
    assert all(one == found[0] for one in found)


def broken(blob: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one cut off, put behind, or replaced."""
    at = st.integers(0, max(0, len(blob) - 1))
    replaced = st.builds(
        lambda i, b: blob[:i] + bytes([b]) + blob[i + 1 :], at, st.integers(0, 255)
    )
    return st.sampled_from([blob[:-1], blob + b"\0", blob + b"\1"]) | replaced


@pytest.mark.parametrize("size", [64, 65, 72, 73, 128, 129, 1_460])
def test_a_full_state_grows_by_its_map_and_tags(size: int, way: None) -> None:
    raw = np.full((1, size), 255, np.uint8)
    words = -(-(size - 64) // 8)
    assert len(all_of(raw)[0]) == size + words + -(-words // 8)
    assert len(all_of(np.zeros((1, size), np.uint8))[0]) == 64 + -(-words // 8)
