#!/bin/sh
# Makes a base image for docker/Dockerfile from this machine's own Debian mirror, where no registry can be reached.
#
#     sh docker/make-base.sh [NAME [SUITE]]          NAME is bvtdeploy-base:bookworm unless given
#     BVTDEPLOY_DOCKER_BASE=bvtdeploy-base:bookworm bvtdeploy build --board rpi4 --toolchain docker
#
# BVTDEPLOY_DOCKER chooses the engine (docker, podman, buildah). BASE_TAR=FILE keeps the file system in FILE, and takes it from there
# the next time. Needs mmdebstrap (apt-get install mmdebstrap) and root rights, or user namespaces.
set -eu
name=${1:-bvtdeploy-base:bookworm} suite=${2:-bookworm}
engine=${BVTDEPLOY_DOCKER:-$(command -v docker || command -v podman || command -v buildah || true)}
[ -n "$engine" ] || { echo "make-base.sh: there is no docker, podman or buildah" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tar=${BASE_TAR:-$work/made.tar}
if [ ! -f "$tar" ]; then
    command -v mmdebstrap >/dev/null || { echo "make-base.sh: there is no mmdebstrap: apt-get install mmdebstrap" >&2; exit 2; }
    # The mirror that this machine uses, so that the image's own apt-get uses it too; its other sources are not our business.
    sources=/etc/apt/sources.list.d/debian.sources
    [ -s "$sources" ] || sources=/etc/apt/sources.list
    [ -s "$sources" ] || sources=
    mmdebstrap --variant=apt --quiet "$suite" "$work/made.tar" $sources
    [ "$tar" = "$work/made.tar" ] || mv "$work/made.tar" "$tar"
fi
case ${engine##*/} in
buildah)
    made=$("$engine" from scratch)
    "$engine" add --quiet "$made" "$tar" / >/dev/null
    "$engine" config --cmd sh "$made"
    "$engine" commit --quiet --rm "$made" "$name"
    ;;
*) "$engine" import --change 'CMD ["sh"]' "$tar" "$name" ;;
esac
echo "$name"
