"""Fields → a Skimmer: the first of the decoders, in C (`c/skim.c`)."""

from typing import Any

from segstream.core import compiled
from segstream.core.field import CALLS, Field, Fields

_OBJECT, _NUMBER, _TEXT = range(3)
#: Texts that every call may have, in the order of the slots that `c/skim.c` gives them.
_COMMON = ("type", "userId", "anonymousId", "messageId", "timestamp", "event")


def skimmer(fields: Fields) -> Any:
    """A Skimmer of what is read; None: it is not compiled."""
    if compiled.functions is None:
        return None
    nodes: list[Any] = []
    slots: dict[tuple[str, ...], int] = {}
    _add({**dict.fromkeys(_COMMON), **fields.tree()}, (), nodes, slots)
    return compiled.functions.Skimmer(tuple(nodes), tuple(_kinds(fields, slots)), len(fields))


def _add(
    tree: dict[str, Any], path: tuple[str, ...], nodes: list[Any], slots: dict[tuple[str, ...], int]
) -> int:
    """Add an object and those within; its number. A name: (UTF-8, what it is, where, low, high)."""
    number = len(nodes)
    nodes.append(())
    names = []
    for step, node in tree.items():
        whole, low, high = (*path, step), 0.0, 0.0
        if isinstance(node, dict):
            what, target = _OBJECT, _add(node, whole, nodes, slots)
        else:
            what, target = _TEXT, slots.setdefault(whole, len(slots))
            if node is not None:
                what, (low, high) = _NUMBER, node
        names.append((step.encode(), what, target, low, high))
    nodes[number] = tuple(names)
    return number


def _kinds(fields: Fields, slots: dict[tuple[str, ...], int]) -> list[Any]:
    """(type, event or None: any, the call's name or None: its event, kind, what is read)."""
    kinds: list[Any] = []
    for (call, event), kind in fields.kinds.items():
        reads = tuple(_read(fields.declared[n], n, slots) for n in fields.of_kind[kind])
        kinds.append((call.encode(), event.encode() or None, event or call, kind, reads))
    kinds.append((b"track", None, None, 0, ()))
    kinds += [
        (call.encode(), None, call, 0, ()) for call in CALLS if (call, "") not in fields.kinds
    ]
    return kinds


def _read(field: Field, number: int, slots: dict[tuple[str, ...], int]) -> Any:
    """(field, slot, is a text, declared texts and what each counts as, what any other does)."""
    declared = tuple((value.encode(), float(i)) for value, i in field.values.items())
    other = -1.0 if field.other is None else float(field.other)
    return number, slots[field.path], field.limits is None, declared, other
