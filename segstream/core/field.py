"""Which values are read from which calls, and the decoder that knows only those.

Compiled from the configuration: the fast path is a msgspec decoder of a tagged union of calls in
which every field that no measure or trait reads is missing, and so is skipped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from segstream.core.call import Fault
from segstream.core.config import Definition
from segstream.core.expression import Floats

Bools = npt.NDArray[np.bool_]

#: Bounds of the values that are read. Sums stay exact integers, `last` stays a plain float64.
SUM_LIMIT = 1e9
LAST_LIMIT = 1e12

ROOTS = ("properties", "traits", "context")
"""The objects of a call that values are read from."""
CALLS = {
    "track": ("properties", "context"),
    "page": ("properties", "context"),
    "screen": ("properties", "context"),
    "identify": ("traits", "context"),
    "group": ("traits", "context"),
}
"""The types of calls, and which of ROOTS the specification gives each."""


@dataclass(frozen=True)
class Field:
    """A value that some measure or trait reads from some calls."""

    path: tuple[str, ...]
    limits: tuple[float, float] | None  # None: a declared value, read as its position
    values: dict[str, int]
    other: float | None = np.nan  # what a value that was not declared counts as; None: refused
    reason: Fault = "value"  # why a value is refused

    def number(self, value: Any) -> float | None:
        """A value of the right type as a number; None: refused."""
        if self.limits is not None:
            return float(value)
        return self.values.get(value, self.other) if isinstance(value, str) else self.other


class Fields:
    """All values that are read. Immutable; one per process.

    `kinds` maps (call type, track event name or "") to a small number ≥ 1; 0 is every call that
    no measure or trait names. `of_kind[kind]` are the numbers of the fields to read from it, and
    `number_of` finds a field by who reads it: (section, name).
    """

    def __init__(self, definition: Definition) -> None:
        self.declared: list[Field] = []
        self.kinds: dict[tuple[str, str], int] = {}
        self.of_kind: list[list[int]] = [[]]
        self.number_of: dict[tuple[str, str], int] = {}
        self._declare(definition)
        self._getters = [_getter(field.path) for field in self.declared]

    def __len__(self) -> int:
        return len(self.declared)

    def _declare(self, definition: Definition) -> None:
        for name, measure in definition.measures.items():
            keys = [("track", event) for event in measure.events]
            keys += [(kind, "") for kind in measure.calls]
            field = None
            if measure.field is not None:
                limit = SUM_LIMIT if measure.kind == "sum" else LAST_LIMIT
                low = 0.0 if measure.kind == "sum" else -limit
                limits = None if measure.kind == "distinct" else (low, limit)
                values = {value: i for i, value in enumerate(measure.values)}
                field = Field(tuple(measure.field.split(".")), limits, values)
            self._add("measures", name, keys, field)
            if measure.money and definition.money is not None:
                codes = {code: i for i, code in enumerate(definition.money.currencies)}
                path = tuple(definition.money.field.split("."))
                self._add("money", name, keys, Field(path, None, codes, None, "currency"))
        for name, trait in definition.traits.items():
            path = tuple((trait.field or f"traits.{name}").split("."))
            limits = (-LAST_LIMIT, LAST_LIMIT) if trait.kind == "number" else None
            values = {value: i for i, value in enumerate(trait.values)}
            self._add(
                "traits",
                name,
                [("identify", "")],
                Field(path, limits, values, len(values)),
            )

    def _add(
        self, section: str, name: str, keys: list[tuple[str, str]], field: Field | None
    ) -> None:
        number = None
        if field is not None:
            number = self.number_of[section, name] = len(self.declared)
            self.declared.append(field)
        for key in keys:
            kind = self.kinds.setdefault(key, len(self.kinds) + 1)
            if kind == len(self.of_kind):
                self.of_kind.append([])
            if number is not None:
                self.of_kind[kind].append(number)

    def kind_of(self, call: str, name: str) -> int:
        """The kind of a call of a type; `name`: of a track event, else whatever it is."""
        return self.kinds.get((call, name if call == "track" else ""), 0)

    def read(self, number: int, structs: Sequence[Any]) -> tuple[Floats, Bools]:
        """A field of some calls, float64 [n], NaN = missing; and which values are not refused."""
        field, found = self.declared[number], self._getters[number](structs)
        if field.limits is None:
            found = [math.nan if value is None else field.number(value) for value in found]
        values = np.array(found, np.float64)  # None: NaN
        if field.limits is not None or field.other is not None:
            return values, np.ones(len(values), bool)
        return values, np.array([value is not None for value in found], bool)

    def tree(self) -> dict[str, Any]:
        """The paths as nested objects by name; a leaf is the bounds of a number, or None: a text.

        Of several fields that read one number the narrowest bounds count.
        """
        tree: dict[str, Any] = {root: {} for root in ROOTS}
        for field in self.declared:
            node = tree
            for step in field.path[:-1]:
                node = node.setdefault(step, {})
            node[field.path[-1]] = _narrower(node.get(field.path[-1]), field)
        return tree

    def struct(self) -> Any:
        """The tagged union of calls, with only the fields that are read; `event` is the name."""
        text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
        tree = self.tree()
        common = [
            ("userId", text | None, None),
            ("anonymousId", text | None, None),
            ("messageId", text | None, None),
            ("timestamp", str | None, None),
        ]
        structs = []
        for tag, own in CALLS.items():
            fields: list[Any] = [("event", text)] if tag == "track" else []
            fields += common
            # Of another call's root nothing is said, but a measure may read from it.
            read = {self.declared[n].path[0] for n in self._read_from(tag)}
            for name in ROOTS:
                if name in own or name in read:
                    fields.append((name, _nested(name, tree[name]) | None, None))
            structs.append(
                msgspec.defstruct(
                    tag.capitalize(),
                    fields,
                    tag_field="type",
                    tag=tag,
                    gc=False,
                    kw_only=True,
                    namespace={"TYPE": tag} if tag == "track" else {"TYPE": tag, "event": tag},
                )
            )
        union: Any = structs[0]
        for struct in structs[1:]:
            union |= struct
        return union

    def _read_from(self, call: str) -> set[int]:
        """The fields that are read from calls of a type."""
        kinds = (kind for (of, _), kind in self.kinds.items() if of == call)
        return {field for kind in kinds for field in self.of_kind[kind]}


def _getter(path: tuple[str, ...]) -> Callable[[Sequence[Any]], list[Any]]:
    """What stands at a path in each struct; None: nothing."""
    whole = attrgetter(".".join(map(_attribute, path)))

    def get(struct: Any) -> Any:
        try:
            return whole(struct)
        except AttributeError:  # an object on the way is missing
            return None

    def get_all(structs: Sequence[Any]) -> list[Any]:
        try:
            return list(map(whole, structs))
        except AttributeError:
            return list(map(get, structs))

    return get_all


def _attribute(step: str) -> str:
    """A JSON name as a Python attribute."""
    plain = step.isidentifier() and not step.startswith(("_", "f_"))
    return step if plain else "f_" + step.encode().hex()


def _narrower(there: Any, field: Field) -> Any:
    """The type of a leaf that several fields may read: the narrowest bounds win."""
    if field.limits is None:
        return None
    low, high = field.limits
    if isinstance(there, tuple):
        low, high = max(low, there[0]), min(high, there[1])
    return (low, high)


def _nested(name: str, tree: dict[str, Any]) -> Any:
    fields: list[Any] = []
    rename = {}
    for step, node in tree.items():
        kind: Any
        if isinstance(node, dict):
            kind = _nested(f"{name}_{step}", node)
        elif isinstance(node, tuple):
            kind = Annotated[float, msgspec.Meta(ge=node[0], le=node[1])]
        else:
            kind = str
        rename[_attribute(step)] = step
        fields.append((_attribute(step), kind | None, None))
    return msgspec.defstruct(name, fields, rename=rename, gc=False)
