"""Bytes that mean harm: whatever a State, a record or a version holds, it is never executed."""

import ast
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.settings import load
from consumers.trainer import training_of
from segstream.core.call import read
from segstream.core.packing import pack
from segstream.core.record import ModelRecord, digest_of
from segstream.core.redrive import read as read_letter
from segstream.core.spec import Invalid
from segstream.core.state import Foreign
from segstream.core.step import Function
from segstream.ports import Refused
from segstream.shell.kafka import published_from
from segstream.shell.models import _explained, model_from
from segstream.shell.redis import announced_of, checkpoint_of
from segstream.shell.river import CustomerKMeans
from segstream.study import Study

ROOT = Path(__file__).parents[1]
VALID = json.loads((ROOT / "schemas/examples/model/valid/version.json").read_text())
SETTINGS = load({})


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[bytes]:
    """A live one; at the end it must not have gone off, and then it must."""
    mark = tmp_path / "mark"
    made = pickle.dumps(Bomb(mark))
    yield made
    assert not mark.exists()
    pickle.loads(made)
    assert mark.exists()


def state(blob: bytes) -> object:
    """In place of a State, by its size as well."""
    layout = Function(SETTINGS.definition).layout
    with pytest.raises(Foreign):
        layout.unpack([blob], ["somebody"])
    whole = np.frombuffer(blob.ljust(layout.dtype.itemsize, b"\0"), np.uint8)
    return layout.unpack(pack(whole[np.newaxis].copy(), np.zeros(1, np.int64)), ["somebody"])


def sample(blob: bytes) -> None:
    study = Study(training_of(SETTINGS), {}, CustomerKMeans)
    with pytest.raises(ValueError, match="key"):
        study.read(blob, b"{}")
    study.read(b"0123456789abcdef", blob)


PLACES: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "State": (state, Foreign),
    "Checkpoint": (checkpoint_of, Refused),
    "layout": (announced_of, Refused),
    "metadata of the group": (lambda blob: published_from(1, blob.decode("latin1")), Refused),
    "call": (lambda blob: read(blob, None), Invalid),
    "CloudEvent": (
        lambda blob: read(b"{}", [("ce_specversion", b"1.0"), ("ce_type", blob), ("ce_id", blob)]),
        Invalid,
    ),
    "version": (lambda blob: model_from(b"1", blob), ValueError),
    "key of a version": (lambda blob: model_from(blob, json.dumps(VALID).encode()), ValueError),
    "sample": (sample, ValueError),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_is_refused_wherever_it_stands(place: str, bomb: bytes) -> None:
    takes, refusal = PLACES[place]
    with pytest.raises(refusal):
        takes(bomb)


def test_a_pickle_in_the_headers_of_a_letter_is_only_bytes(bomb: bytes) -> None:
    found = read_letter(0, [("segstream.errors.reason", bomb), ("segstream.errors.at", bomb)])
    assert found is None or bomb not in repr(found).encode()


# -- versions ----------------------------------------------------------------------------------


def forged(**changes: Any) -> bytes:
    """The example with changes, under a digest that is right."""
    body = {**VALID, **changes}
    return json.dumps({**body, "digest": digest_of(body)}).encode()


def features(**changes: Any) -> list[dict[str, Any]]:
    return [{**feature, **changes} for feature in VALID["features"]]


def segments(**changes: Any) -> list[dict[str, Any]]:
    return [{**segment, **changes} for segment in VALID["segments"]]


KEY = b"%d" % VALID["model"]
FORGED: dict[str, bytes] = {
    "code in an expression": forged(features=features(expression="__import__('os').getcwd()")),
    "an attribute": forged(features=features(expression="orders.__class__")),
    "deep": forged(features=features(expression="-" * 100_000 + "1")),
    "deep parentheses": forged(features=features(expression="(" * 99_999 + "1" + ")" * 99_999)),
    "deep JSON": b"[" * 100_000,
    "large": forged(features=features(expression="1" + "+1" * 2_000_000)),
    "a huge segment": forged(segments=segments(segment=10**30)),
    "a segment of 33 bits": forged(segments=segments(segment=2**32)),
    "another digest": json.dumps({**VALID, "digest": "0" * 64}).encode(),
    "no digest": json.dumps({**VALID, "digest": ""}).encode(),
    "not a number": json.dumps({**VALID, "quality": {"inertia": float("nan")}}).encode(),
    "other centres": forged(segments=segments(centre=[0.0])),
    "one segment twice": forged(segments=[VALID["segments"][0]] * 2),
    "an unknown field": forged(run="rm"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_version_is_skipped(what: str) -> None:
    """By a ValueError, which its reader logs and passes over; in a line that a log can bear."""
    assert model_from(KEY, forged()).version == VALID["model"]
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (each has its own words)
        model_from(KEY, FORGED[what])
    assert len(_explained(refused.value)) < 1_000


@pytest.mark.parametrize("version", [2**32, 2**63, 10**100, 0, -1])
def test_a_version_that_no_state_could_name_is_none(version: int) -> None:
    with pytest.raises(ValueError, match="model"):
        model_from(b"%d" % version, forged(model=version))
    with pytest.raises(ValueError, match="model"):
        ModelRecord.model_validate_json(forged(model=version))


# -- the code ----------------------------------------------------------------------------------

CODE = sorted([*ROOT.glob("segstream/**/*.py"), *ROOT.glob("consumers/*.py")])
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}


def executes(tree: ast.AST) -> Iterator[str]:
    """What could turn data into code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from {n.name.partition(".")[0] for n in names} & MODULES
            case ast.ImportFrom(module=str(module)):
                yield from {module.partition(".")[0]} & MODULES
            case ast.Call(func=ast.Name(id=name)):
                yield from {name} & CALLS
            case ast.Call(keywords=keywords):
                yield from {str(k.arg) for k in keywords} & {"allow_pickle", "shell"}


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_no_code_turns_data_into_code(path: Path) -> None:
    assert list(executes(ast.parse(path.read_text()))) == []


def test_the_search_finds_what_it_looks_for() -> None:
    text = "import pickle\nfrom yaml import load\neval('1')\nnumpy.load('x', allow_pickle=True)"
    assert list(executes(ast.parse(text))) == ["pickle", "yaml", "eval", "allow_pickle"]
