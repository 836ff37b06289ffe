"""The byte layout in schemas/redis-state.md."""

import numpy as np

from consumers.settings import load
from segstream.core.state import Layout
from segstream.core.step import Function

FIELD_MEANINGS = {
    "layout": "layout id, see below",
    "accepted": "events accepted so far; its remainder by 16 is the next place in `ids`",
    "hash": "the customer's hash: BLAKE2b-64 of the id, big-endian value",
    "last": "greatest time of an accepted event, ms; −1 = none",
    "since": "clock when the current segment was entered, ms",
    "pending_since": "clock since which another segment has been nearer, ms; 0 = none",
    "segment": "current segment; 0 = none",
    "pending": "the other segment; 0 = none",
    "stamp": "version of the model that last agreed with `segment`",
    "sequence": "number of the last change",
    "pane": "pane (ms since 1970 div pane length) at which the rings stand",
    "ids": "XXH3-64 of the last 16 accepted message ids, a ring",
    "counts": "rings of `count` measures: {}",
    "sums": "rings of `sum` measures, in 10^−decimals: {}",
    "bits": "rings of `distinct` measures, bit i for the i-th value, 1 to 8 bytes: {}",
    "seen": "latest event time, ms, for `recency`; −1 = never: {}",
    "lasts": "values of `last` measures and traits: {}",
    "lasts_at": "times of `lasts`, ms; −1 = never",
}


def layout_section() -> str:
    """The part of schemas/redis-state.md that follows from `state.Layout` (preset retail)."""
    layout = Function(load({}).definition).layout
    rows = [
        f"| {layout.dtype.fields[field][1]} | {_dtype_text(layout, field)} | `{field}` | "
        f"{FIELD_MEANINGS[field].format(_listed(layout.blocks.get(field, [])))} |"
        for field in layout.dtype.names or ()
        if layout.dtype.fields is not None
    ]
    size = layout.dtype.itemsize
    others = [
        f"`{field}` ({meaning.partition(':')[0]})"
        for field, meaning in FIELD_MEANINGS.items()
        if field not in (layout.dtype.names or ())
    ]
    head = ["| offset | type | field | meaning |", "|---:|---|---|---|"]
    after = LAYOUT_AFTER.format(
        size=size, id=layout.id, rings=size - layout.head_bytes, others=", ".join(others)
    )
    parts = [LAYOUT_TEXT.format(panes=layout.panes).strip(), "\n".join(head + rows), after.strip()]
    return "\n\n".join(parts)


LAYOUT_TEXT = """
## Bytes of a State

Generated from `segstream/core/state.py` by `make docs`, for the preset `retail`
(windows of {panes} panes of one day).

A State has no gaps, is little-endian, and has the same size for every customer of a configuration.
The header (up to `ids`) is always the same; the fields behind it have one entry per measure or
trait that is kept, in the order of the configuration, and a field without entries is absent. `u` is
unsigned, `i` signed, `f` IEEE 754; the number is bytes.
"""
LAYOUT_AFTER = """
Together {size:,} bytes, {rings:,} of them behind the header. Other configurations also have, in
this order, {others}.

**Without zeros.** What stands in Redis is the State packed (`segstream/core/packing.py`): its first
64 bytes as they are, then the rest in words of eight bytes (the last one filled up with zeros). Of
these there is first a map, a bit for each word, 1 if the word is not zero, filled up to whole
bytes; then, for each such word, a tag, a bit for each of its bytes, 1 if the byte is not zero; then
all bytes that are not zero. In map and tags the lowest bit is the first. Usual customers take a
sixth of the size above.

**Rings.** `pane mod length` is the slot of a pane. A ring that stands at pane P holds the panes
P − length + 1 … P; when it is moved on, the slots of the panes passed become 0. States are moved on
only when they are written, so a silent customer's ring stands where it was.

**Versions.** `layout` is the first four bytes, big-endian, of the SHA-256 of the code's fold
version and the field list (`repr` of both, the list as numpy's dtype describes it); here {id}.
Bytes with another id, or that no State of this size packs into, are refused: they were written
under another configuration. What tells configurations apart is the longer layout digest in `meta`
and in the group offset, which also covers what the bytes mean.
"""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _dtype_text(layout: Layout, field: str) -> str:
    kind = layout.dtype[field]
    base, shape = kind.subdtype or (kind, ())
    return " × ".join([f"{np.dtype(base).kind}{np.dtype(base).itemsize}", *map(str, shape)])
