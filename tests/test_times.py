"""Times read many at once are those that are read one by one, whatever stands among them."""

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segstream.core.spec import END_MS, Invalid, parse_time
from segstream.core.times import FEW, NO_TIME, times_of
from tests.test_decode import CASES

FORMS = ["Z", ".123Z", ".999999Z", "+00:00", ".5+00:00", ".000+00:00", ".123456+00:00"]
PARTS = (
    ["2026", "2024", "1970", "1969", "2200", "2201", "0000", "9999", "2100", "2000", "20x6"],
    ["01", "02", "12", "00", "13"],
    ["01", "28", "29", "30", "31", "00", "32"],
    ["T", "t", " "],
    ["00", "23", "24"],
    ["00", "59", "60"],
    ["00", "59", "60"],
)


def alone(text: str) -> int:
    try:
        return parse_time(text)
    except Invalid:
        return NO_TIME


USUAL = st.datetimes().map(lambda at: f"2026-11-{at:%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z")
STRANGE = st.builds(
    "{}-{}-{}{}{}:{}:{}{}".format,
    *map(st.sampled_from, PARTS),
    st.sampled_from([*FORMS, "", "z", ".1234567Z", "+01:00", "-00:00", ".12éZ", ".12\ud800Z"]),
)


@settings(max_examples=CASES // 10)
@given(st.lists(st.one_of(USUAL, STRANGE, st.text(max_size=25)), max_size=3 * FEW))
@example([""] * (FEW + 1))
@example(["2026-02-29T00:00:00.000Z"] * (FEW + 1))
def test_many_are_read_as_each_alone(texts: list[str]) -> None:
    assert times_of(texts).tolist() == [alone(text) for text in texts]


@pytest.mark.parametrize("form", FORMS)
def test_every_date_that_can_be_written(form: str) -> None:
    """Right and wrong ones, in one form: all in one array."""
    texts = ["".join(("-".join(p[:3]), p[3], ":".join(p[4:]), form)) for p in product(*PARTS)]
    wanted = [alone(text) for text in texts]
    assert times_of(texts).tolist() == wanted
    assert 0 < sum(time != NO_TIME for time in wanted) < len(texts)
    assert max(wanted) < END_MS


def test_none() -> None:
    assert times_of([]).tolist() == []
