#!/bin/sh
# Sets everything up and does the main job: compiles the shipped checkpoint, verifies it, builds the runtime for a Raspberry Pi 4, runs it
# on an emulated one and here, and shows where the time goes.    sh examples/demo.sh [options of `bvtdeploy demo`]
set -u
cd "$(dirname "$0")/.." || exit 2
extra=
. examples/setup.sh
exec "$python" -m bvtdeploy demo --output build/demo "$@"
