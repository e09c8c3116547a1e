# Sets up what the demo and the tests need; sourced by examples/demo.sh and tests/run.sh, from the repository's folder.
#
#   in:  extra   extras of the package to install, "" or "test"
#   out: python  the interpreter that has the package
#
# System packages are installed where something is missing and we may (root, or sudo that asks nothing); else it goes on without them.
# An activated virtual environment is used; otherwise .venv is made. pip takes packages from where your own settings say.

have() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s\n' "$*" >&2; }

for python in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 python3.14; do
    have "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    python=
done
[ -n "$python" ] || { say "bvtdeploy needs Python 3.11 or newer: apt-get install python3 python3-venv python3-dev"; exit 2; }

has_header() { "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; }
packages=
if ! have cc || ! have c++; then packages="$packages build-essential"; fi
has_header || packages="$packages python3-dev"
[ -n "${VIRTUAL_ENV:-}" ] || "$python" -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"
have aarch64-linux-gnu-gcc || packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
have qemu-aarch64-static || have qemu-aarch64 || packages="$packages qemu-user-static"

if [ -n "$packages" ] && have apt-get; then
    root=no
    if [ "$(id -u)" = 0 ]; then root=; elif have sudo && sudo -n true 2>/dev/null; then root="sudo -n"; fi
    if [ "$root" != no ]; then
        say "installing$packages"
        # shellcheck disable=SC2086 # the words are meant to be split
        { $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages; } \
            </dev/null >/dev/null || say "apt-get failed: going on without$packages"
    else
        say "going on without$packages (no root rights; to have them: apt-get install$packages)"
    fi
elif [ -n "$packages" ]; then
    say "going on without what Debian has in$packages (there is no apt-get)"
fi
if ! have cc || ! have c++ || ! has_header; then
    say "the package cannot be built: it needs a C and a C++ compiler and Python.h: apt-get install build-essential python3-dev"
    exit 2
fi
wanted=${extra:-demo}
have aarch64-linux-gnu-gcc || extra="${extra:+$extra,}cross" # zig from pip, where there is no cross compiler from Debian

if [ -n "${VIRTUAL_ENV:-}" ]; then
    venv=$VIRTUAL_ENV
else
    venv=$PWD/.venv
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv" || exit 2
fi
python=$venv/bin/python

# The extension is compiled again when anything that goes into it, or the list of dependencies, has changed.
state=$(
    echo "$PWD"
    cat pyproject.toml bvtdeploy/host/CMakeLists.txt bvtdeploy/host/_runtime.cpp runtime_arm/sources.txt | cksum
    find runtime_arm/include runtime_arm/src runtime_arm/tools runtime_arm/third_party -type f -exec cksum {} + | sort
)
if [ "$(cat "$venv/bvtdeploy.$wanted.stamp" 2>/dev/null)" != "$state" ] && [ "$(cat "$venv/bvtdeploy.test.stamp" 2>/dev/null)" != "$state" ]; then
    say "installing bvtdeploy into $venv (the first time this loads torch: some minutes)"
    rm -f "$venv"/bvtdeploy.*.stamp
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" </dev/null >&2 || exit 2
    printf '%s\n' "$state" >"$venv/bvtdeploy.$wanted.stamp"
fi
