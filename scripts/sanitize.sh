#!/bin/sh
# Run the tests that reach segstream/core/c with a build that looks for errors of memory and for
# undefined behaviour. Needs gcc with its sanitizers; works in a copy of the tree.
set -eu
cd "$(dirname "$0")/.."
python="$PWD/.venv/bin/python"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r segstream consumers schemas tests pyproject.toml README.md "$tree"
cd "$tree"
of() { "$python" -c "import sysconfig as s; print($1)"; }
rm -f segstream/core/_compiled.*.so
gcc -g -O1 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=all \
    -fno-omit-frame-pointer -shared -fPIC -ffp-contract=off -fvisibility=hidden \
    "-I$(of "s.get_path('include')")" segstream/core/c/*.c \
    -o "segstream/core/_compiled$(of "s.get_config_var('EXT_SUFFIX')")"
# Uncaptured: what a sanitizer says when it ends the process would be lost with it.
# Python's own allocator would hide what is read behind an object.
PYTHONMALLOC=malloc PYTHONPATH="$tree" ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 \
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    "$python" -m pytest -qs -p no:cacheprovider \
    tests/test_packing.py tests/test_compiled.py tests/test_window.py tests/test_decode.py "$@"
