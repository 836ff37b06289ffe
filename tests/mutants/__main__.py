"""`python -m tests.mutants`: plants each bug in a copy of the tree; the quick tests must see it.

A bug is a patch of one line or two in worker, claim or core, beside this file. Names of some may
be given to try only these. Those in C are compiled; with the others nothing is, so that the Python
which they are in is used.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PATCHES = sorted(Path(__file__).parent.glob("*.patch"))
QUICK = [
    *(f"tests/test_{name}.py" for name in ("window", "money", "worker", "decode", "call")),
    "tests/simulation",
    "tests/test_core_oracle.py",
]
"""What sees core and worker without servers, the fastest first."""
LESS = {"ORACLE_STREAMS": "100", "SIMULATION_SCHEDULES": "100"}
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", "build", "dist", "_compiled.*"
)
SECONDS = 900


class Verdict(NamedTuple):
    """`test`: the first that fails; empty if none does."""

    test: str
    seconds: float


def applied(patch: Path, tree: Path, *, only_check: bool = False) -> bool:
    """Whether the patch fits the tree."""
    command = ["git", "apply", *["--check"] * only_check, str(patch)]
    return subprocess.run(command, cwd=tree, capture_output=True, check=False).returncode == 0


def compile_core(tree: Path) -> None:
    """As hatch_build.py does when segstream is installed."""
    core = tree / "segstream" / "core"
    made = core / f"_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden"]
    headers = f"-I{sysconfig.get_path('include')}"
    sources = map(str, sorted((core / "c").glob("*.c")))
    subprocess.run(["cc", *flags, headers, *sources, "-o", str(made)], check=True)


def tried(patch: Path | None) -> Verdict:
    """The quick tests with a bug in the tree, up to the first that fails."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        if patch is not None and not applied(patch, tree):
            raise SystemExit(f"{patch.name} does not fit any more")
        if patch is not None and patch.stem.startswith("compiled-"):
            compile_core(tree)
        began = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *QUICK],
            cwd=tree,
            env={**os.environ, **LESS},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        took = time.monotonic() - began
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    if run.returncode and not failed:
        raise SystemExit(f"the tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return Verdict(failed[1] if failed else "", took)


def main(names: list[str]) -> int:
    chosen = [patch for patch in PATCHES if not names or patch.stem in names]
    print(f"{'planted':28} {'seconds':>7}  caught by")
    if (clean := tried(None)).test:
        raise SystemExit(f"{clean.test} fails without any bug")
    print(f"{'nothing':28} {clean.seconds:7.0f}  nobody", flush=True)
    missed = 0
    for patch in chosen:
        verdict = tried(patch)
        missed += not verdict.test
        caught = verdict.test.removeprefix("tests/") or "NOTHING"
        print(f"{patch.stem:28} {verdict.seconds:7.0f}  {caught}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return missed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
