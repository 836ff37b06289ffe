"""`segstream size`: arithmetic that a person can check, limits that are said, mistakes named."""

import inspect
import json
import os
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from typer.testing import CliRunner, Result

from consumers import settings
from consumers import size as command
from consumers.cli import app
from segstream.core.demand import Configured, Demand, Each, Measured, Prices, Size, TooBig
from segstream.core.footprint import allocated, footprint
from segstream.core.size import size
from segstream.core.slots import SLOTS, equal_ranges, even_ranges, shares, slot_of
from segstream.shell.redis import Keys

ROOT = Path(__file__).parents[1]
MEASURED = Measured(
    head_bytes=170,
    ring_share=0.1,
    events_per_core=Each(flat=50_000, hot=100_000),
    states_per_event=Each(flat=1.0, hot=0.5),
    redis_us_per_event=Each(flat=5, hot=2),
    tick_us=10,
    redis_tick_us=2,
    entry_bytes=70,
    member_bytes=50,
    change_bytes=400,
    membership_bytes=100,
    changes_per_customer_month=0.5,
    segmenter_gb=0.5,
    trainer_gb=1,
)
PRICES = Prices(vcpu_hour=0.1, memory_gb=2, disk_gb=0.5, traffic_gb=0.25)
CONFIGURED = Configured(namespace="segstream", state_bytes=1_460, tick_seconds=86_400)


def sized(customers: float, events: float, **more: Any) -> Size:
    demand = Demand(customers=int(customers), events_per_second=events, **more)
    return size(demand, CONFIGURED, MEASURED, PRICES)


def values(found: Size, part: str) -> dict[str, float]:
    return {line.name: line.value for line in found.lines if line.part == part}


# -- by hand --------------------------------------------------------------------------


def test_an_example_by_hand() -> None:
    """86.4 million customers tick 1,000 times a second."""
    found = sized(
        86_400_000, 1e5, id_bytes=12, utilisation=0.5, redis_replicas=1, kafka_vcpus=6,
        retention_days=10, readers=2, event_bytes=200, shard_gb=64,
    )  # fmt: skip
    assert values(found, "partitions") == {"number": 87, "replicas": (4 * 87 + 2) * 3}
    # 100,000 / 50,000 + 1,000 × 10 µs = 2.01 cores; 0.5 / (2.01 / 87) = 21.6; 87 / 21 = 4.1
    assert values(found, "segmenters") == {
        "ticks": 1_000, "busy cores": 2.01, "partitions of one process": 21, "processes": 5,
    }  # fmt: skip
    # 1460 → 1536; `segstream:{999}:c:` and 12 bytes are 30 → 48 with header; 16 + 50 in the minute
    each = 1_536 + 48 + 70 + 66
    redis, total = values(found, "Redis"), 86.4e6 * each / 1e9
    assert redis["one customer"] == each
    assert redis["all customers"] == pytest.approx(total)  # 148.6 GB
    assert redis["busy threads"] == pytest.approx(0.5 + 0.002)
    # 148.6 GB / 87 = 1.71 GB of a partition; the half of 64 GB has room for 18 of them
    counts = {number: max(shares(87, equal_ranges(number))) for number in range(3, 8)}
    assert counts == {3: 31, 4: 22, 5: 20, 6: 20, 7: 17}
    fullest = counts[7]
    assert (redis["shards"], redis["nodes"]) == (7, 14)
    assert redis["memory of a node"] == -(-total * fullest / 87 // 0.5)
    assert redis["disk"] == pytest.approx(3 * total * 2)
    assert redis["traffic"] == pytest.approx(1e5 * 1_460 * 3 / 1e6)
    changes = 86.4e6 * 0.5 / (730 * 3600)
    kafka, come = values(found, "Kafka"), 20 + changes * 500 / 1e6
    assert kafka["changes"] == pytest.approx(changes)
    assert kafka["in"] == pytest.approx(come)
    assert kafka["between brokers"] == pytest.approx(2 * come)
    assert kafka["out"] == pytest.approx(20 + 2 * changes * 500 / 1e6)
    disk = 3 * (come * 86_400 * 10 / 1_000 + 2 * 86.4e6 * 100 / 1e9)
    assert kafka["disk"] == pytest.approx(disk)
    cost = values(found, "cost")
    assert cost["segmenters"] == pytest.approx(5 * 730 * 0.1 + 5 * 0.5 * 2)
    assert cost["trainer"] == pytest.approx(2 * 730 * 0.1 + 2 * 1 * 2)
    assert cost["Redis"] == pytest.approx(
        28 * 730 * 0.1 + 14 * redis["memory of a node"] * 2 + redis["disk"] * 0.5
    )
    assert cost["Kafka"] == pytest.approx(6 * 730 * 0.1 + disk * 0.5)
    moved = sum(kafka[name] for name in ("in", "between brokers", "out")) + redis["traffic"]
    assert cost["traffic"] == pytest.approx(moved * 730 * 3600 / 1_000 * 0.25)
    assert cost["total"] == pytest.approx(sum(v for k, v in cost.items() if k != "total"))


def test_a_small_one() -> None:
    found = sized(1_000, 10)
    assert found.value("partitions", "number") == 64
    assert found.value("segmenters", "processes") == 1
    assert found.value("Redis", "shards") == 1
    assert [shard.partitions for shard in found.shards] == [64]


def test_every_line_shows_numbers_that_it_was_computed_from() -> None:
    for line in sized(1e8, 1e6).lines:
        assert re.search(r"\d", line.how) or line.name in ("total", "processes"), line


@pytest.mark.parametrize(("size", "given"), [(1, 16), (16, 16), (17, 32), (128, 128), (129, 160),
    (1_024, 1_024), (1_025, 1_280), (1_466, 1_536), (1_537, 1_792), (2_049, 2_560)])  # fmt: skip
def test_sizes_of_the_allocator(size: int, given: int) -> None:
    """As in jemalloc's manual, the table of size classes."""
    assert allocated(size) == given


# -- limits ---------------------------------------------------------------------------

demands: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    customers=st.integers(1, 10**9),
    events=st.floats(0.1, 2e6),
    utilisation=st.floats(0.3, 1),
    shard_gb=st.floats(16, 256),
    traffic=st.sampled_from(["flat", "hot"]),
    even_slots=st.booleans(),
    redis_replicas=st.integers(0, 2),
)


def best(demand: dict[str, Any]) -> Size:
    """With equal ranges of slots, where any number of shards carries it so."""
    try:
        return sized(**demand)
    except TooBig:
        return sized(**{**demand, "even_slots": True})


@given(demands)
def test_nothing_is_busier_or_fuller_than_wanted(demand: dict[str, Any]) -> None:
    found = best(demand)
    partitions, most = int(found.value("partitions", "number")), demand["utilisation"] + 1e-6
    assert partitions >= 64
    assert demand["customers"] / partitions <= 1_000_000
    busy, processes = (found.value("segmenters", n) for n in ("busy cores", "processes"))
    assert processes <= partitions
    assert busy * -(-partitions // processes) / partitions <= most
    counts = [shard.partitions for shard in found.shards]
    assert sum(counts) == partitions
    assert len(counts) == found.value("Redis", "shards") != 2
    assert found.value("Redis", "thread of the fullest") <= most
    fullest = found.value("Redis", "all customers") * max(counts) / partitions
    assert fullest <= demand["shard_gb"] * most
    assert found.value("Redis", "memory of a node") >= fullest / demand["utilisation"] - 1e-6


@given(demands, st.floats(1, 5))
def test_more_never_needs_less(demand: dict[str, Any], factor: float) -> None:
    names = [("partitions", "number"), ("Redis", "all customers"), ("Kafka", "disk")]
    less = best({**demand, "customers": max(1, demand["customers"] // 5)})
    more = best({**demand, "events": demand["events"] * factor})
    same = best(demand)
    for of in names:
        assert less.value(*of) <= same.value(*of) <= more.value(*of)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(TooBig, match=r"20,000 partitions would be needed.*at most 10,000"):
        sized(2e10, 1)
    with pytest.raises(TooBig, match=r"4 partitions are too few: one of them has more events"):
        sized(1e6, 1e6, partitions=4)
    with pytest.raises(TooBig, match=r"no cluster of up to 1,000 shards of 0.1 GB.*--even-slots"):
        sized(1e8, 1, partitions=100, shard_gb=0.1)


def test_what_is_given_and_too_little_is_said() -> None:
    few = sized(5e6, 1_000, partitions=3)
    assert any("3 partitions are given, 64 are advised" in note for note in few.notes)
    assert few.value("partitions", "number") == 3
    small = sized(1e8, 1e5, shards=3)
    assert any("3 shards are too few" in note for note in small.notes)


def test_shards_without_partitions_are_named() -> None:
    found = sized(1e6, 100, partitions=8, shards=6)
    empty = [str(number) for number, shard in enumerate(found.shards) if not shard.partitions]
    assert empty
    assert any(f"numbers {', '.join(empty)}." in note for note in found.notes)
    even = sized(1e6, 100, partitions=8, shards=6, even_slots=True)
    assert sorted(shard.partitions for shard in even.shards) == [1, 1, 1, 1, 2, 2]
    assert not any("no partition" in note for note in even.notes)
    none = sized(1e6, 100, partitions=4, shards=6, even_slots=True)
    assert any("2 of 6 shards get no partition" in note for note in none.notes)


# -- slots ----------------------------------------------------------------------------


def test_slots_are_those_of_redis() -> None:
    keys = Keys("any.name")
    for partition in range(10_000):
        for key in (keys.meta(partition), keys.customer(partition, "u{1}"), keys.minute(9, 5)):
            expected = 9 if ":{9}:m:" in key else partition
            assert key_slot(key.encode()) == slot_of(expected)


@given(st.integers(1, 1_200), st.integers(1, 100))
def test_ranges_cover_all_slots_once(partitions: int, shards: int) -> None:
    kinds = [equal_ranges(shards)]
    if shards <= partitions:
        kinds.append(even_ranges(partitions, shards))
        counts = shares(partitions, kinds[-1])
        assert max(counts) - min(counts) <= 1
    for ranges in kinds:
        assert [slot for a, b in ranges for slot in range(a, b + 1)] == list(range(SLOTS))
        assert sum(shares(partitions, ranges)) == partitions


def test_equal_ranges_are_those_of_the_tool() -> None:
    """As redis-cli prints them for three and for six primaries."""
    assert equal_ranges(3) == [(0, 5460), (5461, 10922), (10923, 16383)]
    assert equal_ranges(6)[:3] == [(0, 2730), (2731, 5460), (5461, 8191)]


# -- what it is computed from ---------------------------------------------------------


def test_constants_say_when_and_how_they_were_measured() -> None:
    body = tomllib.loads((ROOT / "segstream" / command.MEASURED).read_text())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name, table in body.items():
        assert isinstance(table["date"], date), name
        made = re.match(r"make (\S+)", table["command"])
        module = re.match(r"python -m (\S+)", table["command"])
        assert made or module, name
        assert not made or made[1] in targets
        assert not module or (ROOT / (module[1].replace(".", "/") + ".py")).exists()
    assert command.measured().events_per_core.flat == body["events_per_core"]["flat"]


def test_the_state_is_that_of_the_settings(tmp_path: Path) -> None:
    """Not a constant: other windows, another footprint."""
    assert command.configured(settings.load({})).state_bytes == 279
    file = tmp_path / "segstream.toml"
    file.write_text(
        'namespace = "shop"\ntick.period = "12h"\n[measures.lessons]\nkind = "count"\n'
        'events = ["Lesson Completed"]\n[features.lessons]\nexpression = "lessons[28d]"\n'
    )
    mine = command.configured(settings.load({"SEGSTREAM_CONFIG": str(file)}))
    assert mine == Configured(namespace="shop", state_bytes=197 + 4, tick_seconds=43_200)
    assert footprint(mine, MEASURED, 12).bytes == 224 + 32 + 70 + 66


# -- the command ----------------------------------------------------------------------


def run(*words: str, **more: str) -> Result:
    unset = dict.fromkeys(name for name in os.environ if name.startswith("SEGSTREAM_"))
    return CliRunner().invoke(app, ["size", *words], env={**unset, **more})


def test_the_command_of_the_issue() -> None:
    words = ("--customers", "1e8", "--events-per-second", "1e6")
    table, as_json = run(*words), run(*words, "--json")
    assert (table.exit_code, as_json.exit_code) == (0, 0)
    found = json.loads(as_json.stdout)
    number = {(line["part"], line["name"]): line["value"] for line in found["lines"]}
    assert number["partitions", "number"] == 100
    assert sum(shard["partitions"] for shard in found["shards"]) == 100
    for note in found["notes"]:
        assert note[:60] in table.stdout
    for line in found["lines"]:
        assert line["name"] in table.stdout


def test_another_preset_needs_other_memory(tmp_path: Path) -> None:
    words = ("--customers", "1e6", "--events-per-second", "10", "--json")
    file = tmp_path / "segstream.toml"
    file.write_text('preset = "media"')
    retail, media = (
        command.configured(settings.load(environment)).state_bytes
        for environment in ({}, {"SEGSTREAM_CONFIG": str(file)})
    )
    found = json.loads(run(*words, SEGSTREAM_CONFIG=str(file)).stdout)
    (how,) = [line["how"] for line in found["lines"] if line["name"] == "one customer"]
    assert retail != media
    assert f"State {media} →" in how


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--customers", "1e8"), "--events-per-second"),
        (("--customers", "many", "--events-per-second", "1"), "--customers"),
        (("--customers", "1.5", "--events-per-second", "1"), "1.5 is not a whole number"),
        (("--customers", "nan", "--events-per-second", "1"), "nan is not a whole number"),
        (("--customers", "0", "--events-per-second", "1"), "--customers: input should be greater"),
        (("--customers", "9", "--events-per-second", "inf"), "--events-per-second: input should"),
        (
            ("--customers", "9", "--events-per-second", "-1", "--utilisation", "3"),
            "--utilisation: input should be less than or equal to 1, not 3",
        ),
        (("--customers", "9", "--events-per-second", "1", "--traffic", "cold"), "'flat', 'hot'"),
        (("--customers", "9", "--events-per-second", "1", "--price-disk-gb", "-1"), "--price-disk"),
        (("--customers", "1e12", "--events-per-second", "1"), "topics.partitions takes at most"),
    ],
)  # fmt: skip
def test_mistakes_are_said(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_defaults_are_said_once() -> None:
    """The options' are those of the model."""
    parameters = inspect.signature(command.size_).parameters
    for name, field in Demand.model_fields.items():
        if name not in ("customers", "events_per_second"):
            assert parameters[name].default == field.default, name
