"""The documents say what is true: generated pages, links, commands, variables, examples."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaException, Producer

from consumers.credentials import SUFFIX, takes_file
from consumers.settings import KAFKA_PREFIX, VARIABLES, load
from scripts.reference.commands import commands, parameters
from scripts.reference.pages import EXAMPLE, pages
from segstream.core.batch import Checkpoint
from segstream.core.mapping import parse
from segstream.core.record import Change, Membership, Sample
from segstream.core.step import Function
from segstream.shell.metrics import SEGMENTER, TRAINER

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("schemas/*.md"),
        *ROOT.glob("segstream/presets/*.md"),
    ]
)
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md"]
CODE = sorted([*ROOT.glob("segstream/**/*.py"), *ROOT.glob("consumers/*.py")])
FOLDERS = "docs|schemas|segstream|consumers|tests|scripts|examples|benchmarks"

#: More variables, which only tests read.
OF_TESTS = {"ORACLE_STREAMS", "ORACLE_SEEDS"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name)


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """What stands in fences and backticks, a line each."""
    text = page.read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", rest)])


# -- generated ------------------------------------------------------------------------


@pytest.mark.parametrize("path", pages())
def test_generated_pages_are_up_to_date(path: str) -> None:
    """After a change of the code: `make docs`."""
    assert (ROOT / path).read_text() == pages()[path]


def test_the_readme_shows_the_example_as_it_is() -> None:
    assert (ROOT / EXAMPLE).read_text().strip() in [
        block.strip() for block in blocks(ROOT / "README.md", "python")
    ]


def test_the_byte_layout_is_that_of_the_code() -> None:
    dtype = Function(load({}).definition).layout.dtype
    text = (ROOT / "schemas/redis-state.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([uif]\d)((?: × \d+)*) \| `(\w+)` \|", text, re.MULTILINE)
    found = [
        (field, int(offset), f"<{kind}", tuple(map(int, shape.split(" × ")[1:])))
        for offset, kind, shape, field in rows
    ]
    assert dtype.fields is not None
    assert found == [
        (field, dtype.fields[field][1], dtype[field].base.str, dtype[field].shape)
        for field in dtype.names or ()
    ]
    assert f"Together {dtype.itemsize:,} bytes" in text


# -- what is named exists -------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(rf"^((?:{FOLDERS})/[\w./-]+\.\w+)$", code(page), re.MULTILINE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", CODE, ids=name)
def test_pages_that_the_code_names_exist(path: Path) -> None:
    for page in re.findall(r"\b(?:docs|schemas)/[\w/-]+\.md\b", path.read_text()):
        assert (ROOT / page).exists(), page


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    known = commands()
    for line in re.findall(r"(?:^|[\s/(])segstream ([a-z][^#\n]*)", code(page), re.MULTILINE):
        words = line.split()
        two = " ".join(words[:2])
        command = known.get(two) or known.get(words[0])
        groups = {full.split()[0] for full in known if " " in full}
        assert command or (words[0] in groups and len(words) == 1), line
        if command is None:
            continue
        options = {parameter for parameter, *_ in parameters(command)}
        given = {word.strip("[]`").partition("=")[0] for word in words if "--" in word}
        assert given <= options, line


@each_page
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", code(page), re.MULTILINE)) <= targets


@each_page
def test_variables_that_are_named_exist(page: Path) -> None:
    for variable in set(re.findall(r"\bSEGSTREAM_[A-Z_]*[A-Z]\b(?!<)", page.read_text())):
        if takes_file(variable):
            variable = variable.removesuffix(SUFFIX)  # noqa: PLW2901
        if not variable.startswith(KAFKA_PREFIX):
            assert variable in {*VARIABLES, "SEGSTREAM_CONFIG", "SEGSTREAM_KAFKA"}, variable
            continue
        kafka = variable.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")
        try:
            Producer({kafka: "x", "log_level": 0})
        except KafkaException as error:
            assert "No such configuration" not in error.args[0].str(), variable  # noqa: PT017


@each_page
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = {metric.name for metric in (*SEGMENTER, *TRAINER)}
    known |= {f"{m.name}_bucket" for m in (*SEGMENTER, *TRAINER) if m.kind == "histogram"}
    assert set(re.findall(r"\bsegstream_[a-z_]+[a-z]\b", page.read_text())) <= known


# -- what is shown works --------------------------------------------------------------


def values(text: str) -> Iterator[object]:
    """JSON values one after the other."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].strip()


@each_page
def test_json_is_what_it_looks_like(page: Path) -> None:
    records = (("cause", Change), ("since", Membership), ("level", Sample))
    for block in blocks(page, "json"):
        for value in values(block):
            assert isinstance(value, dict)
            if "born" in value:
                assert sum(msgspec.convert(value, Checkpoint).born) == value["customers"]
                continue
            for field, model in records:
                if field in value:
                    model.model_validate_json(json.dumps(value))
                    break


@each_page
def test_toml_is_understood(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        if "calls" in tomllib.loads(block):
            parse(block)
            continue
        file = tmp_path / "segstream.toml"
        file.write_text(block)
        load({"SEGSTREAM_CONFIG": str(file)})


@each_page
def test_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, name(page), "exec")


def refusals() -> Iterator[str]:
    """How each message of a Refused begins, up to its first value of at least some words."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused"):
                continue
            (text,) = node.args
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            said = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
            yield next((part for part in said if len(part) > 14), said[0])


@pytest.mark.parametrize("text", sorted(set(refusals())))
def test_every_refusal_is_explained(text: str) -> None:
    first = re.split(r"[.:;,]|\n", text.strip())[0]
    assert first in (ROOT / "docs/operations.md").read_text()
