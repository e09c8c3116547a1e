#!/bin/sh
# Sets everything up and runs the tests: lint, types, the C tests, pytest.    sh tests/run.sh [options of pytest]
set -u
cd "$(dirname "$0")/.." || exit 2
extra=test
. examples/setup.sh

failed=
step() {
    name=$1
    shift
    say "== $name"
    "$@" || failed="$failed $name"
}
step ruff "$python" -m ruff check .
step mypy "$python" -m mypy
step C-tests sh runtime_arm/tests/run.sh
step pytest "$python" -m pytest -q -n 2 --dist loadfile "$@" # two files at a time: much of the time is waiting
[ -z "$failed" ] || { say "failed:$failed"; exit 1; }
