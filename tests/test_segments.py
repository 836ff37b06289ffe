"""`segstream segments`: explained in words, and renamed, without servers."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from consumers import segments
from consumers.settings import load
from segstream.core.record import Fate, ModelRecord, Rename, Retired, Rules
from segstream.core.rename import Unfit
from segstream.ports import Refused
from segstream.testing.trainer import MemoryTopics
from tests.test_rename import PLAIN, names, wish
from tests.test_trainer import Message, interleaved, lives, trainer_of, work

ROOT = Path(__file__).parents[1]


def told() -> ModelRecord:
    """A version with all that can be explained."""
    spend = PLAIN.features[1].model_copy(update={"average": 100.0})
    rules = Rules(text="no orders in 90 days", fidelity=0.93, recall=0.8, covers=0.9, precision=0.7)
    first, second, third = PLAIN.segments
    first = first.model_copy(
        update={
            "profile": {"recency": 3.0, "spend": 250.0},
            "means": {"recency": None, "spend": 310.0},
            "effects": {"recency": -0.2, "spend": 1.84},
            "rules": rules,
            "fate": Fate(kind="survived", parents=[(1, 0.9), (9, 0.08)], overlaps=[(1, 0.85)]),
            "named_by": "person",
            "name": "[Big] ones",
        }
    )
    second = second.model_copy(
        update={"rules": rules.model_copy(update={"approximate": True, "precision": None})}
    )
    return PLAIN.model_copy(
        update={
            "features": [PLAIN.features[0], spend],
            "segments": [first, second, third],
            "retired": [Retired(segment=9, name="sleepers", heir=1)],
        }
    )


def test_explains_in_words() -> None:
    console = Console(file=io.StringIO(), width=100)
    segments.show(console, told(), {1: 1_234, 2: 9})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[Big] ones #1, named by people: 1,234 customers, 25% of the panel" in text
    assert (
        "who: no orders in 90 days (true of 90% of its members, and 70% of those are members)"
        in text
    )
    assert "who: approximately: no orders in 90 days (true of 90% of its members)" in text
    assert "who: no short rule tells them apart" in text
    assert "since the last version: survived (85 % of its members stayed)" in text
    rows = [line.split() for line in text.splitlines() if "3.1" in line]
    assert rows == [
        ["│", "spend", "│", "250", "│", "310", "│", "100", "│", "3.1", "│", "+1.8", "sd", "│"]
    ]
    assert "the rules put 93% of all customers where the model does, and at least 80%" in text


def test_explains_to_programs() -> None:
    found = json.loads(json.dumps(segments.explained(told(), {2: 5})))
    assert [s["segment"] for s in found["segments"]] == [2, 1, 3]
    big = found["segments"][1]
    assert big["features"][0] == {
        "feature": "spend", "median": 250, "mean": 310, "average": 100, "times": 3.1,
        "effect": 1.84,
    }  # fmt: skip
    assert big["rules"]["text"] == "no orders in 90 days"
    assert big["fate"]["parents"] == [[1, 0.9], [9, 0.08]]
    assert found["segments"][2]["rules"] is None


def test_a_version_of_an_older_release_is_explained_as_far_as_it_goes() -> None:
    console = Console(file=io.StringIO(), width=100)
    segments.show(console, PLAIN, {})
    assert "lapsed #1: 0 customers" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", get_args(Fate.model_fields["kind"].annotation))
def test_every_fate_is_told(kind: str) -> None:
    record = told()
    fate = Fate.model_validate({"kind": kind, "parents": [(1, 0.9)], "overlaps": [(1, 0.3)]})
    first, *rest = record.segments
    changed = record.model_copy(
        update={"segments": [first.model_copy(update={"fate": fate}), *rest]}
    )
    console = Console(file=io.StringIO(), width=200)
    segments.show(console, changed, {})
    assert f"since the last version: {kind}" in console.file.getvalue()  # type: ignore[attr-defined]


# -- renaming -------------------------------------------------------------------------


class Topic:
    """`Models` and `send_rename` on topics in memory; a trainer works whenever they are read."""

    def __init__(self, messages: list[Message], *, trained: bool = True) -> None:
        self.topics = MemoryTopics()
        self.topics.samples = list(messages)
        self.trainer, _ = trainer_of(self.topics)
        if messages:
            work(self.trainer, self.topics)
        self.trained = trained
        self.sent: list[Rename] = []

    def __call__(self, *_: object) -> "Topic":
        return self

    def refresh(self) -> None:
        if self.trained:
            self.trainer.turn()

    def renames(self) -> Mapping[int, Rename]:
        return dict(self.topics.renames)

    def __iter__(self) -> Any:
        return iter(self.topics.versions)

    def __len__(self) -> int:
        return len(self.topics.versions)

    def __getitem__(self, version: int) -> ModelRecord:
        return self.topics.versions[version]

    def close(self) -> None: ...

    def send(self, _: object, topic: str, rename: Rename) -> None:
        assert topic == "segment-models"
        self.sent.append(rename)
        self.topics.rename(rename)


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return interleaved(lives(12), 0)


def place(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> Topic:
    monkeypatch.setattr(segments, "Models", topic)
    monkeypatch.setattr(segments, "send_rename", topic.send)
    monkeypatch.setattr(segments, "PATIENCE", 0.2)
    return topic


def grant(rename: Rename) -> str:
    return segments.grant(load({}), rename)


def test_a_name_is_given_and_taken_back(
    messages: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = place(Topic(messages), monkeypatch)
    assert list(topic) == [1, 2]
    assert grant(wish(1, "Friends")) == "segment 1 is called 'Friends', as of version 3"
    assert grant(wish(1, "Friends")) == "nothing to do: segment 1 is called 'Friends'"
    text = grant(wish(1, None))
    assert text == f"segment 1 is called {names(topic[4])[1][0]!r} by its profile, as of version 4"
    assert grant(wish(1, None)).startswith("nothing to do")
    assert [w.name for w in topic.sent] == ["Friends", None]
    assert list(topic) == [1, 2, 3, 4]


def test_without_a_trainer_the_wish_waits(
    messages: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = place(Topic(messages, trained=False), monkeypatch)
    assert "no trainer has answered" in grant(wish(1, "Friends"))
    with pytest.raises(Unfit, match="segment 1 has the name 'Friends'"):
        grant(wish(2, "Friends"))
    # the newest version says nothing of the wish; taking it back must not be "nothing to do"
    assert "no trainer has answered" not in grant(wish(1, None))
    assert topic.renames()[1].name is None
    work(topic.trainer, topic.topics)
    assert list(topic) == [1, 2]


def test_refusals_write_nothing(messages: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    topic = place(Topic(messages), monkeypatch)
    taken = names(topic[2])[2][0]
    for segment, name in ((77, "A"), (77, None), (1, taken)):
        with pytest.raises(Unfit):
            grant(wish(segment, name))
    place(Topic([]), monkeypatch)
    with pytest.raises(Refused, match="no model yet"):
        grant(wish(1, "A"))
    assert topic.sent == []


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 61])
def test_what_nobody_can_be_called(name: str) -> None:
    with pytest.raises(Unfit, match="1 to 60 characters"):
        segments.wish_of(1, name)


def test_blanks_around_a_name_are_not_part_of_it() -> None:
    assert segments.wish_of(1, " Friends ").name == "Friends"
    assert segments.wish_of(1, None).name is None
    with pytest.raises(Unfit, match="no segment"):
        segments.wish_of(2**32, "A")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["3"], "a name is needed"),
        (["3", "A", "--reset"], "not both"),
        (["3", ""], "1 to 60 characters"),
        (["0", "A"], "'segment'"),
        (["friends", "A"], "'segment'"),
    ],
)
def test_wrong_usage_is_said_before_anybody_is_asked(words: list[str], why: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "segments", "rename", *words],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}, cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert why in done.stderr
