"""The table of rights: it agrees with the table of topics, and is granted by what is printed."""

import itertools
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segstream.shell.access import READER, Right, commands, rights_of
from segstream.shell.contract import rights, topics

ROOT = Path(__file__).parents[1]
PROCESSES = ("segmenter", "trainer")


@pytest.mark.parametrize("process", PROCESSES)
def test_who_reads_and_writes_a_topic_is_the_same_in_both_tables(process: str) -> None:
    granted = rights()[process].topics
    for name, topic in topics().items():
        operations = granted.get(name, [])
        assert ("Write" in operations) == (process in topic.writers), name
        assert ("Read" in operations) == (process in topic.readers), name


def test_every_topic_that_is_named_exists() -> None:
    for process, needed in rights().items():
        assert needed.topics.keys() <= topics().keys(), process


def test_names_are_those_of_the_installation() -> None:
    found = rights_of("segmenter", "eu.", "shop")
    assert Right("Write", "topic", "eu.segment-changes") in found
    assert Right("Read", "group", "shop.segmenter") in found
    assert Right("Write", "transactional-id", "shop.segmenter.", prefixed=True) in found
    assert Right("Describe", "group", READER) in rights_of("look", "eu.", "shop")


def granted(words: list[str]) -> list[Right]:
    """What a line for kafka-acls.sh grants."""
    said = list(itertools.pairwise(words))
    (place,) = [(k, v) for k, v in said if k in ("--topic", "--group", "--transactional-id")]
    prefixed = ("--resource-pattern-type", "prefixed") in said
    return [
        Right(operation, place[0].removeprefix("--"), place[1], prefixed)  # type: ignore[arg-type]
        for word, operation in said
        if word == "--operation"
    ]


@pytest.mark.parametrize("process", rights())
def test_the_lines_that_are_printed_grant_the_rights(process: str) -> None:
    """No more and no less, to whom they name, also in a shell that reads `|` and `*` as signs."""
    lines = [shlex.split(x) for x in commands(process, "U 1", "eu.", "shop", "kafka:9093")]
    kafka = [words for words in lines if words[0] == "kafka-acls.sh"]
    assert all("User:U 1" in words for words in kafka)
    found = [right for words in kafka for right in granted(words)]
    assert sorted(found) == sorted(rights_of(process, "eu.", "shop"))
    rest = [words for words in lines if words not in kafka]
    if rights()[process].redis:
        (words,) = rest
        assert words[:5] == ["redis-cli", "ACL", "SETUSER", "U 1", "on"]
        assert {"resetkeys", "~shop:*", "resetchannels", "-@all"} <= set(words)
        assert {f"+{command}" for command in rights()[process].redis} <= set(words)
    else:
        assert rest == []


def test_the_command_prints_them() -> None:
    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "consumers", "rights", *words],
            env={"SEGSTREAM_NAMESPACE": "shop"}, cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    done = said("trainer", "--user", "t")
    assert done.returncode == 0
    there = list(commands("trainer", "t", "", "shop", "127.0.0.1:9092"))
    assert done.stdout.splitlines() == there
    wrong = said("nobody")
    assert wrong.returncode == 2
    assert "segmenter, trainer" in wrong.stderr
