"""The endpoints for supervisors tell the truth."""

import json
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import Histogram

from segstream.core.calendar import DAY
from segstream.core.output import ms_text
from segstream.core.record import Drift
from segstream.shell import http
from segstream.shell.metrics import SECONDS, SegmenterMetrics, TrainerMetrics

Get = Callable[[str], tuple[int, Any]]


def served(metrics: SegmenterMetrics | TrainerMetrics) -> Get:
    port = http.serve(0, "127.0.0.1", metrics.metrics.registry, metrics.health)

    def get(path: str) -> tuple[int, Any]:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return get


def asked(get: Get, path: str) -> tuple[int, Any]:
    status, text = get(path)
    return status, json.loads(text)


def test_a_segmenter_is_ready_once_all_that_it_owns_is_claimed() -> None:
    metrics = SegmenterMetrics()
    get = served(metrics)
    assert asked(get, "/health")[0] == 200
    assert asked(get, "/ready")[0] == 503  # no member yet
    metrics.turned(member=True)
    assert asked(get, "/ready")[0] == 200  # there may be nothing left for it
    metrics.owned([0, 3])
    metrics.ready([3])
    status, body = asked(get, "/ready")
    assert (status, body["waiting"], body["partitions"]) == (503, [0], [0, 3])
    assert asked(get, "/health")[0] == 200
    metrics.ready([0, 3])
    assert asked(get, "/ready")[0] == 200
    metrics.turned(member=False)
    assert asked(get, "/ready")[0] == 503


def test_a_halted_partition_is_named() -> None:
    metrics = SegmenterMetrics()
    get = served(metrics)
    metrics.turned(member=True)
    metrics.owned([0, 1])
    metrics.ready([0])
    metrics.halted(1, 0.7)
    status, body = asked(get, "/ready")
    assert (status, body["halted"], body["waiting"]) == (503, [1], [])
    metrics.owned([0])
    metrics.ready([0])
    status, body = asked(get, "/ready")
    assert (status, body["halted"], body["partitions"]) == (200, [], [0])


def test_a_loop_that_does_not_go_round_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = SegmenterMetrics()
    get = served(metrics)
    metrics.turned(member=True)
    monkeypatch.setattr(http, "STUCK_SECONDS", 0.0)
    assert asked(get, "/health")[0] == 503
    assert asked(get, "/ready")[0] == 503


def test_a_trainer_is_ready_when_it_trains_or_stands_by() -> None:
    metrics = TrainerMetrics()
    get = served(metrics)
    assert asked(get, "/ready")[0] == 503
    metrics.turned(owner=False)
    assert asked(get, "/ready")[1]["state"] == "standing by"
    assert asked(get, "/ready")[0] == 200
    metrics.turned(owner=True)
    assert asked(get, "/ready")[0] == 503  # reads its memory first
    metrics.claimed(None)
    metrics.turned(owner=True)
    assert asked(get, "/ready")[0] == 200
    metrics.forgot("test")
    assert asked(get, "/ready")[0] == 503


def test_an_alarm_of_drift_is_shown_for_a_week() -> None:
    metrics, at = TrainerMetrics(), 100 * DAY
    get = served(metrics)
    metrics.watched(at, Drift(reference=1, distance=1.5, psi=0.3, share_alarm=ms_text(at)))
    text = get("/metrics")[1]
    assert 'segstream_trainer_drift_alarm{monitor="distance"} 0.0' in text
    assert 'segstream_trainer_drift_alarm{monitor="shares"} 1.0' in text
    assert "segstream_trainer_drift_distance 1.5" in text
    assert "segstream_trainer_drift_psi 0.3" in text
    metrics.watched(at + 7 * DAY, Drift(reference=1, share_alarm=ms_text(at)))
    assert 'segstream_trainer_drift_alarm{monitor="shares"} 0.0' in get("/metrics")[1]


AGES = [-5, 0, 4, 5, 6, 100, 101, 60_000, 60_001, 7, 7, 7]  # ms, at the bounds and around them


def test_many_values_count_as_each_would() -> None:
    metrics, one_by_one = SegmenterMetrics(), Histogram("x", "", registry=None, buckets=SECONDS)
    metrics.published(0, [])
    metrics.published(0, AGES[:7])
    metrics.published(0, AGES[7:])
    for age in AGES:
        one_by_one.observe(max(age, 0) / 1000)
    text = served(metrics)("/metrics")[1]
    (counted,) = one_by_one.collect()
    for sample in (s for s in counted.samples if not s.name.endswith("_created")):
        labels = "".join(f'{{{name}="{value}"}}' for name, value in sample.labels.items())
        name = sample.name.removeprefix("x")
        assert f"segstream_change_freshness_seconds{name}{labels} {sample.value}" in text


def test_metrics_are_beside_them() -> None:
    status, text = served(SegmenterMetrics())("/metrics")
    assert status == 200
    assert "segstream_partitions_owned 0.0" in text
