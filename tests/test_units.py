"""Small exact parts of the core: minor units, hashes, the language of features."""

import math
import re
import zlib
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segstream.core.expression import (
    Is,
    Recency,
    Term,
    Value,
    Window,
    evaluate,
    parse,
    parse_duration,
    terms,
)
from segstream.core.hash import customer_hash, level_of, message_hashes, murmur2, partitions_of
from segstream.core.output import ms_text, ms_texts, rounded
from segstream.core.units import minor_units
from tests import oracle_reading

# --- amounts --------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.decimals(0, 10**9, places=3).map(float),
            st.decimals(0, 10**4, places=7).map(float),
            st.floats(0, 1e9),
        ),
        max_size=20,
    ),
    st.integers(0, 6),
)
@example([2.675, 2.665, 0.005, 0.015, 1.005, 1e-7, 0.125, 1e9, 999_999_999.995], 2)
@example([0.5, 1.5, 2.5, 999_999_999.5], 0)
def test_minor_units_are_rounded_half_to_even_on_the_decimal_text(
    values: list[float], decimals: int
) -> None:
    exact = [Decimal(repr(value)).scaleb(decimals) for value in values]
    wanted = [int(e.quantize(Decimal(1), ROUND_HALF_EVEN)) for e in exact]
    assert minor_units(np.array(values), decimals).tolist() == wanted


def test_a_missing_amount_counts_as_nothing() -> None:
    assert minor_units(np.array([np.nan, 1.0]), 2).tolist() == [0, 100]


# --- hashes ---------------------------------------------------------------------------------

#: From UtilsTest.testMurmur2 of Apache Kafka, as Java's int.
KAFKA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def test_murmur2_is_that_of_kafka() -> None:
    found = murmur2([text.encode() for text in KAFKA]).view(np.int32)
    assert dict(zip(KAFKA, found.tolist(), strict=True)) == KAFKA


@given(st.lists(st.binary(max_size=70), max_size=12))
@example([b"", b"a", b"\0", b"a\0\0\0", b"\0\0\0\0\0"])
def test_many_hashes_at_once_are_each_by_itself(ids: list[bytes]) -> None:
    """Padding, trailing NULs and the company an id is in change nothing."""
    assert murmur2(ids).tolist() == [oracle_reading.murmur2(i) for i in ids]


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=12), st.integers(1, 300))
def test_partitions_are_those_of_the_producers(ids: list[bytes], partitions: int) -> None:
    java = [(oracle_reading.murmur2(i) & 0x7FFFFFFF) % partitions for i in ids]
    librdkafka = [zlib.crc32(i) % partitions for i in ids]
    assert partitions_of(ids, partitions, "murmur2").tolist() == java
    assert partitions_of(ids, partitions, "crc32").tolist() == librdkafka


def test_hashes_never_change() -> None:
    """They are in stored States: another value would need another layout."""
    assert f"{customer_hash('u-1'):016x}" == "2809d284fb93fe69"
    assert f"{customer_hash('a:Zoë'):016x}" == "a539cf8878c829db"
    assert f"{message_hashes([b'm-1'])[0]:016x}" == "1dc73f47c0140d66"
    assert [level_of(h) for h in (2**64 - 1, 2**63, 2**63 - 1, 1, 0)] == [0, 0, 1, 63, 64]


# --- numbers and times as they are written ---------------------------------------------------


@given(st.lists(st.integers(0, 2**43 - 1), max_size=8))
def test_times_are_written_alike_one_by_one_and_together(times: list[int]) -> None:
    assert ms_texts(np.array(times, np.int64)) == [ms_text(time) for time in times]


@given(st.lists(st.floats(-1e9, 1e9), max_size=8))
def test_numbers_are_rounded_as_people_do(values: list[float]) -> None:
    found = rounded(np.array(values, np.float64)).tolist()
    assert found == pytest.approx([round(value, 6) for value in values], rel=0, abs=1.1e-6)
    assert all(len(repr(abs(value)).partition(".")[2]) <= 6 for value in found if abs(value) >= 1)


# --- expressions ----------------------------------------------------------------------------

TERMS: dict[Term, float] = {
    Window("orders", 90 * 86_400_000): 4.0,
    Window("spend", 90 * 86_400_000): 100.0,
    Window("none", 86_400_000): 0.0,
    Recency("orders"): 2.5,
    Value("age"): 35.0,
    Value("unknown"): math.nan,
    Is("country", "DE"): 1.0,
}


def value_of(text: str) -> float:
    values = {term: np.array([value]) for term, value in TERMS.items()}
    with np.errstate(all="ignore"):
        return float(evaluate(parse(text), values, 1)[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("orders[90d]", 4),
        ("orders[ 90d ]", 4),
        ("spend[90d] / orders[90d]", 25),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("16 / 4 / 2", 2),
        ("-age + 40", 5),
        ("min(age, 3) + max(1, 2e1)", 23),
        ("log1p(recency(orders) * 0)", 0),
        ("log1p(1)", math.log(2)),
        ("is_(country, 'DE') * 7", 7),
        ("spend[90d] / none[1d]", math.nan),
        ("none[1d] / none[1d]", math.nan),
        ("log1p(-1)", math.nan),
        ("log1p(0 - 2)", math.nan),
        ("min(unknown, 1)", math.nan),
        ("unknown * 0", math.nan),
    ],
)
def test_an_expression_has_the_usual_value(text: str, value: float) -> None:
    assert value_of(text) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not an expression"),
        ("1 +", "'1 +' is not an expression"),
        ("orders[90d", "is not an expression"),
        ("orders[90]", "'90' is not a duration; write a whole number"),
        ("orders[90x]", "'90x' is not a duration; write a whole number and s, m, h or d: 90d"),
        ("orders[0d]", "'0d' is not a duration"),
        ("orders[90d][1d]", "is not understood"),
        ("2 ** 3", "'2 ** 3' is not understood; an expression has"),
        ("1 if age else 2", "is not understood"),
        ("age.real", "'age.real' is not understood"),
        ("__import__('os')", "is not understood"),
        ("min(1)", "'min(1)' is not understood"),
        ("max(1, 2, 3)", "is not understood"),
        ("log1p(x=1)", "is not understood"),
        ("recency(1)", "'recency(1)' is not understood"),
        ("is_(country, 7)", "is not understood"),
        ("True", "'True' is not understood"),
        ("'text'", "is not understood"),
        ("1j", "'1j' is not understood"),
        ("age < 3", "is not understood"),
        ("1; 2", "is not an expression"),
        ("(" * 101 + "1" + ")" * 101, "at most 200 characters, not 203"),
    ],
)
def test_an_error_names_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(text)


def test_terms_are_the_leaves_that_a_state_provides() -> None:
    found = list(terms(parse("log1p(orders[7d] / (1 + age)) - recency(spend) * is_(c, 'x')")))
    week = 7 * 86_400_000
    assert found == [Window("orders", week), Value("age"), Recency("spend"), Is("c", "x")]


def test_durations() -> None:
    assert [parse_duration(t) for t in ("30s", "15m", "6h", "90d")] == [
        30_000, 900_000, 21_600_000, 7_776_000_000,
    ]  # fmt: skip
    for wrong in ("", "90", "d", "1.5d", "-1d", "01d", "1w", "1D", "9999999999d", "١d"):
        with pytest.raises(ValueError, match="is not a duration"):
            parse_duration(wrong)
