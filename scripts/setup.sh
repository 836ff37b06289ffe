#!/bin/sh
# Install segstream with some extras into .venv: `sh scripts/setup.sh local dev`.
# With uv: the exact versions of uv.lock. Without: the newest that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'segstream: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if command -v uv >/dev/null 2>&1; then
    options=""
    for extra in "$@"; do options="$options --extra $extra"; done
    say "installing with uv: $*"
    # Inexact: what another extra has installed stays.
    # shellcheck disable=SC2086
    uv sync --locked --inexact $options
else
    if ! is_new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        found=""
        for python in python3.13 python3.12 python3.11 python3 python; do
            if is_new_enough "$python"; then found=$python; break; fi
        done
        [ -n "$found" ] || fail "Python 3.11 or newer is needed, and none is on the PATH." \
            "Install it, or uv (which brings its own): https://docs.astral.sh/uv/"
        say "creating .venv with $("$found" --version)"
        "$found" -m venv --clear .venv || fail "$found cannot make a virtual environment." \
            "On Debian and Ubuntu: apt install python3-venv"
    fi
    extras=$(printf '%s,' "$@")
    say "installing with pip: $* (about a minute the first time)"
    .venv/bin/python -m pip install --disable-pip-version-check --editable ".[${extras%,}]" \
        || fail "the installation failed, see above"
fi
say "ready"
