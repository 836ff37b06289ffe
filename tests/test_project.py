"""The files around the code: what a fresh clone and a release rely on."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from segstream.shell import contract

ROOT = Path(__file__).parents[1]
HOSTS = {"pypi.org", "files.pythonhosted.org"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked() -> dict[str, dict[str, Any]]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return {package["name"]: package for package in packages}


def test_the_lock_names_public_hosts_only() -> None:
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"\w+://([^/\"\s]+)", text)) == HOSTS
    assert "file:" not in text
    for package in locked().values():
        assert set(package["source"]) <= {"registry", "editable"}


def test_the_lock_is_that_of_the_project() -> None:
    """After a change of a dependency: `uv lock`."""
    extras = project()["project"]["optional-dependencies"].values()
    wanted = [*project()["project"]["dependencies"], *(d for extra in extras for d in extra)]
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in wanted}
    metadata = locked()["segstream"]["metadata"]["requires-dist"]
    assert {dependency["name"] for dependency in metadata} == names
    assert locked()["segstream"]["source"] == {"editable": "."}
    assert names <= set(locked())


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    described = re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(described)
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(f"make {target}" in shown for target in described)


def test_shell_scripts_are_well_formed() -> None:
    for shell, script in (("sh", "scripts/setup.sh"), ("bash", ".ci/run")):
        subprocess.run([shell, "-n", script], cwd=ROOT, check=True)
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} must be executable"


def test_hooks_need_no_network() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    assert {hook["language"] for r in hooks["repos"] for hook in r["hooks"]} == {"system"}


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{project()['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_full_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:2] == ["Apache", "License"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_contracts_are_found() -> None:
    assert contract.topics()
    with pytest.raises(FileNotFoundError):
        contract.json_schema("nothing")
