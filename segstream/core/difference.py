"""Where what is there differs from what the log says, in words."""

from collections.abc import Iterator
from typing import Any

import msgspec

from segstream.core.batch import Checkpoint
from segstream.core.state import Foreign, Layout

SHOWN = 60
"""Characters of a value in a message."""


def differences(there: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(there.get(key), wanted.get(key), inner)
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        for i, (left, right) in enumerate(zip(there, wanted, strict=True)):
            yield from differences(left, right, f"{path}[{i}]")
    elif there != wanted:
        yield f"{path or 'the value'} is {_short(there)}, the log says {_short(wanted)}"


def checkpoint_differences(there: Checkpoint, wanted: Checkpoint) -> Iterator[str]:
    """Field by field."""
    yield from differences(msgspec.to_builtins(there), msgspec.to_builtins(wanted))


def state_differences(layout: Layout, there: bytes | None, wanted: bytes | None) -> Iterator[str]:
    """Field by field, and measure by measure within the rings."""
    if there == wanted:
        return
    if there is None or wanted is None:
        yield "has no State" if there is None else "has a State, the log says none"
        return
    try:
        left, right = layout.unpack([there, wanted], ["", ""])
    except Foreign:
        yield "the State is none of this configuration"
        return
    for field in layout.dtype.names or ():
        if left[field].tobytes() == right[field].tobytes():
            continue
        if field not in layout.blocks:
            yield from differences(left[field].tolist(), right[field].tolist(), field)
            continue
        for i, measure in enumerate(layout.blocks[field]):
            ours, theirs = (state[field][i].tolist() for state in (left, right))
            yield from differences(ours, theirs, f"{field} of {measure}")


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
