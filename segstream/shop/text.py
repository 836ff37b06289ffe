"""Columns → Segment calls, one JSON object a line.

Names and properties are those of the Segment Spec (ecommerce) where it has them. Each line is made
by one `%`: an encoder per call would take several times as long.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.shop.day import PAGES, PRODUCTS, Group
from segstream.shop.people import Ints

Objects = npt.NDArray[np.object_]


def _objects(texts: Sequence[str]) -> Objects:
    return np.array(texts, object)


_PAGES = _objects(PAGES)
_IDS = _objects([f"p-{n:04d}" for n in range(PRODUCTS)])
_KINDS = ("home", "garden", "kitchen", "toys", "fashion", "sports", "books", "beauty")
_CATEGORIES = _objects([_KINDS[n * 7 % 61 % 8] for n in range(PRODUCTS)])
_COUNTRIES = _objects(["Germany", "France", "Netherlands", "Austria", "Spain", "Poland"])
_PLANS = _objects(["free", "plus"])
_TRUTH = _objects(["false", "true"])
_COUPON = _objects(["", ',"coupon":"SAVE10"'])
_NETWORKS = _objects(["instagram", "tiktok", "facebook"])
_CLOCK = _objects([f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in range(86_400)])


class _Form(NamedTuple):
    """How a kind of call is written; `tables` turn columns into texts, None: a number as it is."""

    text: str
    tables: tuple[Objects | None, ...]


def _form(begin: str, end: str, *tables: Objects | None) -> _Form:
    head = '%s,"messageId":"MESSAGE-%d","timestamp":"DATET%s.%03dZ"'
    return _Form(f"{{{begin},{head},{end}}}", tables)


def _track(event: str, properties: str, *tables: Objects | None) -> _Form:
    return _form(f'"type":"track","event":"{event}"', f'"properties":{{{properties}}}', *tables)


_PRODUCT = '"product_id":"%s","category":"%s","price":%.2f,"currency":"EUR"'
_ORDER = '"order_id":"%d","total":%.2f,"currency":"EUR"'
_POST = '"network":"%s","post_id":"%d"'
_FORMS = {
    "page": _form('"type":"page"', '"name":"%s","properties":{"title":"%s"}', _PAGES, _PAGES),
    "viewed": _track("Product Viewed", _PRODUCT, _IDS, _CATEGORIES, None),
    "added": _track("Product Added", _PRODUCT, _IDS, _CATEGORIES, None),
    "ordered": _track("Order Completed", _ORDER + "%s", None, None, _COUPON),
    "refunded": _track("Order Refunded", _ORDER, None, None),
    "traits": _form(
        '"type":"identify"',
        '"traits":{"age":%d,"country":"%s","plan":"%s","newsletter":%s}',
        None, _COUNTRIES, _PLANS, _TRUTH,
    ),
    "answered": _track("Survey Answered", '"survey":"nps","score":%d', None),
    "shared": _track("Post Shared", _POST, _NETWORKS, None),
    "liked": _track("Post Liked", _POST, _NETWORKS, None),
}  # fmt: skip


def written(
    groups: Sequence[Group], who: Objects, message: str, day: date
) -> tuple[Ints, Ints, list[str]]:
    """The calls of a day in the order of time: ms of the day, who, line; all [calls].

    `who`: the member that says who it is, such as `"userId":"c-1"`, of customers and guests.
    `message` begins the message ids; the number behind it is the place in the day.
    """
    at = np.concatenate([group.at for group in groups])
    order = np.argsort(at, kind="stable")
    place = np.empty(len(at), np.int64)
    place[order] = np.arange(len(at))
    lines = np.empty(len(at), object)
    begin = 0
    for group in groups:
        end = begin + len(group.at)
        form = _FORMS[group.kind]
        text = form.text.replace("MESSAGE", message).replace("DATE", day.isoformat())
        seconds, ms = np.divmod(group.at, 1_000)
        columns: list[list[Any]] = [
            who[group.who].tolist(),
            place[begin:end].tolist(),
            _CLOCK[seconds].tolist(),
            ms.tolist(),
        ]
        for table, column in zip(form.tables, group.columns, strict=True):
            found = column if table is None else table[column.astype(np.int64)]
            columns.append(found.tolist())
        lines[begin:end] = list(map(text.__mod__, zip(*columns, strict=True)))
        begin = end
    people = np.concatenate([group.who for group in groups])
    return at[order], people[order], lines[order].tolist()
