"""The made-up shop: reproducible, readable, and true to what it says about its customers."""

import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.cli import main
from consumers.simulate import Part, Run, is_writable, shop_of, write_truth
from segstream.core.calendar import DAY
from segstream.core.call import Call, read
from segstream.core.check import define
from segstream.core.event import Records
from segstream.core.hash import partitions_of
from segstream.core.step import Function, Partition
from segstream.shell import files
from segstream.shop import PERSONAS, Shop
from tests.harness import RETAIL

SEGSTREAM = [sys.executable, "-m", "consumers"]
SMALL = Shop(customers=60, days=120, new_persona=50, inflation=(60, 70), campaign=80, guests=20)
CALM = Shop(new_persona=None, inflation=None, campaign=None, hazard=0, seasons=False)
NAMES = [persona.name for persona in PERSONAS]


@cache
def calls(shop: Shop) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shop.calls()]


def ms(call: dict[str, Any]) -> int:
    at = datetime.fromisoformat(call["timestamp"])
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000)


# -- reproducible ---------------------------------------------------------------------


def test_the_seed_decides_every_byte() -> None:
    assert list(SMALL.calls()) == list(replace(SMALL).calls())
    others = list(replace(SMALL, seed=1).calls())
    assert not set(SMALL.calls()) & set(others)
    assert SMALL.digest == replace(SMALL).digest != replace(SMALL, seed=1).digest


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    short = replace(SMALL, days=70)
    lines = list(short.calls())
    assert lines == list(islice(SMALL.calls(), len(lines)))
    stays = short.stays()
    assert stays == SMALL.stays()[: len(stays)]


def test_days_are_the_same_calls_with_time_and_customer() -> None:
    days = list(SMALL.by_day())
    assert len(days) == SMALL.days
    assert [line.encode() for day in days for line in day.lines] == list(SMALL.calls())
    for day in days:
        assert (day.begin <= day.at).all()
        assert (day.at < day.begin + DAY).all()
        for at, who, line in zip(day.at.tolist(), day.who, day.lines, strict=True):
            call = json.loads(line)
            assert at == ms(call)
            assert who == call.get("userId", call.get("anonymousId"))


def test_calls_are_in_the_order_of_time_and_each_has_an_id_of_its_own() -> None:
    found = calls(SMALL)
    times = [ms(call) for call in found]
    assert times == sorted(times)
    assert len({call["messageId"] for call in found}) == len(found)
    assert times[0] >= SMALL.begin


@pytest.mark.parametrize(
    "wrong", [{"customers": 0}, {"days": 0}, {"seed": -1}, {"start": date(1969, 1, 1)}]
)
def test_shops_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shop needs|expected"):
        replace(SMALL, **wrong)


# -- readable -------------------------------------------------------------------------


def test_the_decoder_takes_every_call() -> None:
    lines = list(SMALL.calls())
    function, partition = Function(define(RETAIL)), Partition(0, 1, "murmur2", "customer-events")
    none = [None] * len(lines)
    decoded = function.decode(
        Records(range(len(lines)), [0] * len(lines), lines, none, none), partition
    )
    assert not decoded.rejects
    assert all(isinstance(read(line), Call) for line in lines)  # the authority does, too
    assert not decoded.strays
    assert decoded.events.time.tolist() == [ms(call) for call in calls(SMALL)]
    names = {"Order Completed", "Order Refunded", "Product Added", "Product Viewed"}
    assert names <= set(decoded.events.names)
    total = sum(
        c["properties"]["total"] for c in calls(SMALL) if c.get("event") == "Order Completed"
    )
    assert np.nansum(decoded.events.values) > total > 0  # with refunds


def test_all_five_sources_speak() -> None:
    seen = Counter(call.get("event", call["type"]) for call in calls(SMALL))
    for kind in (
        *("Order Completed", "Order Refunded"),
        *("page", "Product Viewed", "Product Added"),
        "identify",
        "Survey Answered",
        *("Post Liked", "Post Shared"),
    ):
        assert seen[kind] > 0, kind
    anonymous = [call for call in calls(SMALL) if "userId" not in call]
    assert anonymous
    assert {call.get("event", call["type"]) for call in anonymous} == {"page", "Product Viewed"}
    for call in calls(SMALL):
        if call.get("event") == "Survey Answered":
            assert 0 <= call["properties"]["score"] <= 10


def test_orders_are_what_was_put_into_the_basket_and_refunds_are_of_orders() -> None:
    orders, added = {}, defaultdict(list)
    for call in calls(SMALL):
        if call.get("event") == "Product Added":
            added[call["userId"]].append(call["properties"]["price"])
        elif call.get("event") == "Order Completed":
            orders[call["properties"]["order_id"]] = call
            assert added[call["userId"]]
            assert call["properties"]["total"] > 0
        elif call.get("event") == "Order Refunded":
            order = orders[call["properties"]["order_id"]]
            assert call["userId"] == order["userId"]
            assert 0 < call["properties"]["total"] <= order["properties"]["total"]
            assert 2 * DAY < ms(call) - ms(order) < 22 * DAY


# -- true -----------------------------------------------------------------------------


def test_truth_is_that_of_the_stays() -> None:
    stays = SMALL.stays()
    for day in (0, 1, 27, 50, 80, 119):
        at = SMALL.begin + day * DAY + DAY // 2
        last = {stay.customer: stay for stay in stays if stay.since_ms <= at}
        truth = SMALL.truth_at(at)
        assert dict(
            zip(truth.customers, zip(truth.persona, truth.since, strict=True), strict=True)
        ) == {c: (NAMES.index(stay.persona), stay.since_ms) for c, stay in last.items()}
    assert SMALL.truth_at(SMALL.begin - 1).customers == []


def test_nobody_is_heard_of_before_the_truth_knows_them() -> None:
    first = {stay.customer: stay.since_ms for stay in reversed(SMALL.stays())}
    heard: dict[str, dict[str, Any]] = {}
    for call in calls(SMALL):
        if "userId" in call:
            heard.setdefault(call["userId"], call)
    for customer, call in heard.items():
        assert call["type"] == "page"
        assert call["name"] == "Sign up"
        assert 0 <= ms(call) - first[customer] < DAY
    assert heard.keys() == first.keys()


def test_personas_come_and_switch_when_they_should() -> None:
    shop = Shop(customers=20_000, seed=3)
    stays = shop.stays()
    day = {stay: (stay.since_ms - shop.begin) // DAY for stay in stays}
    refillers = [day[stay] for stay in stays if stay.persona == "refiller"]
    assert min(refillers) >= 240
    early = np.mean([at < 270 for at in refillers if at < 300])
    assert early > 0.7  # most come within a month
    before, after = (shop.truth_at(shop.begin + d * DAY) for d in (399, 400))
    who = dict(zip(after.customers, after.persona.tolist(), strict=True))
    loyal = [c for c, p in zip(before.customers, before.persona, strict=True) if p == 0]
    assert np.mean([NAMES[who[c]] == "bargain" for c in loyal]) == pytest.approx(0.4, abs=0.04)
    quiet = replace(shop, campaign=None, new_persona=None)
    joined = {stay.customer: stay.since_ms for stay in reversed(quiet.stays())}
    years = sum(shop.begin + shop.days * DAY - at for at in joined.values()) / DAY / 365
    switches = len(quiet.stays()) - len(joined)
    assert switches / years == pytest.approx(0.35, abs=0.02)


def test_what_is_switched_off_does_not_happen() -> None:
    shop = replace(CALM, customers=500)
    stays = shop.stays()
    assert len(stays) == len({stay.customer for stay in stays})
    assert "refiller" not in {stay.persona for stay in stays}
    assert shop_of(500, 540, 0, "2024-01-01", list(Part)) == shop


def sums(shop: Shop, event: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(calls, amounts) per day."""
    found = np.zeros((shop.days, 2))
    for line in shop.calls():
        if f'"{event}"'.encode() in line:
            call = json.loads(line)
            found[(ms(call) - shop.begin) // DAY] += 1, call["properties"].get("total", 0)
    return found


def test_inflation_and_seasons_show_in_the_orders() -> None:
    calm = replace(CALM, customers=400, guests=0)
    dear = replace(calm, inflation=(300, 360))
    usual, raised = sums(calm, "Order Completed"), sums(dear, "Order Completed")
    assert usual[:, 0].tolist() == raised[:, 0].tolist()  # the same orders
    assert usual[:300].tolist() == raised[:300].tolist()
    assert raised[360:, 1].sum() / usual[360:, 1].sum() == pytest.approx(1.35, abs=0.001)
    part = raised[300:360, 1].sum() / usual[300:360, 1].sum()
    assert part == pytest.approx(1.175, abs=0.03)
    busy = sums(replace(calm, seasons=True), "Order Completed")[:, 0]
    weekday = np.arange(540) % 7  # 2024-01-01 is a Monday
    weekend = busy[weekday >= 5].mean() / busy[weekday < 5].mean()
    assert weekend == pytest.approx(1.175 / 0.95, abs=0.1)
    christmas, autumn = busy[330:354].mean(), busy[280:310].mean()
    assert christmas > 1.15 * autumn


def test_personas_do_what_they_are_described_by() -> None:
    shop = replace(CALM, customers=1_500, days=160, guests=0)
    truth = shop.truth_at(shop.begin + 28 * DAY)
    persona = dict(zip(truth.customers, truth.persona.tolist(), strict=True))
    orders, spend, refunds = np.zeros(8), np.zeros(8), np.zeros(8)
    for call in calls(shop):
        if ms(call) >= shop.begin + 30 * DAY and (p := persona.get(call["userId"])) is not None:
            orders[p] += call.get("event") == "Order Completed"
            refunds[p] += call.get("event") == "Order Refunded"
            if call.get("event") == "Order Completed":
                spend[p] += call["properties"]["total"]
    members = np.bincount(truth.persona, minlength=8)
    for p, of in enumerate(PERSONAS[:-1]):
        expected = of.visits * of.buys * 130 / 90
        error = 5 * np.sqrt(expected / members[p] + (0.26 * expected) ** 2 / members[p])
        assert abs(orders[p] / members[p] - expected) < error, of.name
        if orders[p] > 500:
            assert spend[p] / orders[p] == pytest.approx(of.basket, rel=0.2), of.name
            assert refunds[p] / orders[p] == pytest.approx(of.refunds, abs=0.04), of.name


def test_spend_has_a_long_tail() -> None:
    shop = replace(CALM, customers=2_000, days=90)
    spend: Counter[str] = Counter()
    for line in shop.calls():
        if b'"Order Completed"' in line:
            call = json.loads(line)
            spend[call["userId"]] += call["properties"]["total"]
    amounts = np.sort(list(spend.values()))[::-1]
    assert 0.25 < amounts[: len(amounts) // 10].sum() / amounts.sum() < 0.6


# -- the personas can be found, though not all ------------------------------------------


def features(shop: Shop, day: int) -> dict[str, list[float]]:
    """Recency, orders, spend, basket, adds and refunds of each at the end of a day; brute force."""
    now = shop.begin + day * DAY
    kept: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for of_day in islice(shop.by_day(), day):
        for at, who, line in zip(of_day.at.tolist(), of_day.who, of_day.lines, strict=True):
            if '"event":"Order' in line or '"event":"Product Added' in line:
                call = json.loads(line)
                kept[who][call["event"]].append((at, call["properties"].get("total", 0.0)))
    found = {}
    for customer, of in kept.items():
        recent = {k: [a for at, a in v if at > now - 90 * DAY] for k, v in of.items()}
        bought = of.get("Order Completed", [])
        orders, spend = (
            len(recent.get("Order Completed", ())),
            sum(recent.get("Order Completed", ())),
        )
        refunds = sum(recent.get("Order Refunded", ()))
        found[customer] = [
            min((now - bought[-1][0]) / DAY, 180.0) if bought else 180.0,
            orders,
            spend,
            spend / orders if orders else np.nan,
            len(recent.get("Product Added", ())),
            refunds / spend if spend else 0.0,
        ]
    return found


def test_k_means_finds_most_of_the_personas_but_not_all() -> None:
    shop = Shop(customers=700, days=270, seed=5)
    truth = shop.truth_at(shop.begin + shop.days * DAY - 1)
    found = features(shop, shop.days)
    there = [i for i, customer in enumerate(truth.customers) if customer in found]
    raw = np.array([found[truth.customers[i]] for i in there])
    raw[:, 3] = np.where(np.isnan(raw[:, 3]), np.nanmedian(raw[:, 3]), raw[:, 3])
    x = np.log1p(raw)
    x = np.clip(x, *np.percentile(x, [0.5, 99.5], axis=0))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    cluster, metrics = import_module("sklearn.cluster"), import_module("sklearn.metrics")  # untyped
    labels = cluster.KMeans(8, n_init=10, random_state=0).fit_predict(z)
    assert 0.45 < metrics.adjusted_rand_score(truth.persona[there], labels) < 0.75


# -- the command ------------------------------------------------------------------------


def test_a_file_is_the_calls(tmp_path: Path) -> None:
    plain, packed = tmp_path / "shop.jsonl", tmp_path / "shop.jsonl.gz"
    told: list[int] = []
    for path in (plain, packed):
        done = Run(SMALL, None, told.append, lambda: False).into(path)
        assert not done.stopped
    assert plain.read_bytes().split(b"\n") == [*SMALL.calls(), b""]
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert told == [*range(SMALL.days + 1)] * 2
    again = tmp_path / "again.jsonl.gz"
    Run(SMALL, None, told.append, lambda: False).into(again)
    assert again.read_bytes() == packed.read_bytes()
    numbered = list(files.calls(plain))
    assert [value for *_, value in numbered] == list(SMALL.calls())
    assert [raw for _, _, raw, _ in numbered] == [who for day in SMALL.by_day() for who in day.who]


def test_the_truth_is_written(tmp_path: Path) -> None:
    write_truth(SMALL, tmp_path / "truth.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "truth.csv").read_text())))
    assert [(r["customer"], r["persona"]) for r in rows] == [(s[0], s[2]) for s in SMALL.stays()]
    since = [datetime.fromisoformat(row["since"]).timestamp() * 1_000 for row in rows]
    assert since == [stay.since_ms for stay in SMALL.stays()]


def test_what_can_be_written() -> None:
    assert all(map(is_writable, map(Path, ("-", "a.jsonl", "a.b.ndjson", "A.JSONL.GZ"))))
    assert not any(map(is_writable, map(Path, ("a", "a.csv", "jsonl", "a.jsonl.xz"))))


def test_the_rate_is_kept(tmp_path: Path) -> None:
    began = time.monotonic()
    count = len(list(replace(SMALL, days=20).calls()))
    Run(replace(SMALL, days=20), count, lambda _: None, lambda: False).into(tmp_path / "a.jsonl")
    assert time.monotonic() - began > 0.85  # the last tenth need not be waited for


def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent" / "a.jsonl"
    for code, arguments, said in (
        (2, ["shop.txt"], "shop.txt"),
        (2, ["shop.jsonl", "--as-lived"], "Kafka"),
        (2, ["-", "--start", "yesterday"], "yesterday"),
        (2, ["-", "--start", "2199-12-01"], "2199"),
        (1, [str(absent)], "absent"),
        (1, ["-", "--truth", str(absent)], "absent"),
    ):
        monkeypatch.setattr(sys, "argv", ["segstream", "simulate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        assert (ended.value.code, out) == (code, "")
        assert said in errors


def test_ctrl_c_ends_after_a_whole_line() -> None:
    with subprocess.Popen(
        [*SEGSTREAM, "simulate", "-", "--rate", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as running:
        assert running.stdout is not None
        begin = running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        rest, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"stopped" in said
    lines = (begin + rest).split(b"\n")
    assert lines.pop() == b""
    assert lines == list(islice(Shop().calls(), len(lines)))


def test_who_reads_may_go() -> None:
    done = subprocess.run(
        f"{sys.executable} -m consumers simulate - | head -1",
        shell=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout == next(Shop().calls()) + b"\n"
    assert b"Traceback" not in done.stderr


def test_partitions_share_the_customers() -> None:
    ids = [customer.encode() for customer in Shop().truth_at(2**60).customers]
    share = np.bincount(partitions_of(ids, 8, "murmur2"), minlength=8) / len(ids)
    assert (np.abs(share - 1 / 8) < 0.04).all()
