#!/bin/sh
# Builds and runs the C tests: natively with AddressSanitizer and UBSan, and for aarch64 under qemu on several cores.
# usage: tests/run.sh [BUILD FOLDER]     CC, CROSS_CC and QEMU choose the tools.
set -eu
cd "$(dirname "$0")/.."
out=${1:-${TMPDIR:-/tmp}/bvt-tests}
cc=${CC:-cc} cross=${CROSS_CC:-aarch64-linux-gnu-gcc} qemu=${QEMU:-qemu-aarch64-static}
common="-std=c11 -D_GNU_SOURCE -g -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -Iinclude -Isrc"
tests="test_kernels test_bgemm test_ops_check test_load test_threads test_image"

# build FOLDER ARCH LINK-FLAGS COMPILER...: the library from sources.txt and all test programs.
build() {
    dir=$1 arch=$2 link=$3
    shift 3
    mkdir -p "$dir"
    # Lines of the library (up to @bvt_run) that are for every machine or for this one; two compilers at a time.
    sed -n -e '/^@/q' -e '/^[^#]/p' sources.txt | awk -v arch="$arch" 'NF == 1 || $2 == arch { o = $1; gsub("/", "_", o); line = $1 " " o ".o"; for (i = 3; i <= NF; i++) line = line " " $i; print line }' |
        xargs -P 2 -L 1 sh -c 'f=$1 o=$2; shift 2; '"$*"' '"$common"' "$@" -c "$f" -o "'"$dir"'/$o"' sh
    for t in $tests; do "$@" $common $link "tests/$t.c" "$dir"/src_*.o -pthread -lm -o "$dir/$t"; done
    "$@" $common -DBVT_FUZZ_WITHOUT_CRC -c src/load.c -o "$dir/load_without_crc.o"
    "$@" $common $link tests/test_fuzz.c "$dir/load_without_crc.o" $(ls "$dir"/src_*.o | grep -v src_load) -pthread -lm -o "$dir/test_fuzz"
}

native=$(uname -m)
echo "== $native, $cc, AddressSanitizer and UBSan"
build "$out/native" "$native" "" "$cc" -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
for t in $tests test_fuzz; do "$out/native/$t"; done

if [ "$native" = aarch64 ]; then
    exit 0
elif command -v "$cross" >/dev/null && command -v "$qemu" >/dev/null; then
    build "$out/aarch64" aarch64 -static "$cross" -O3
    for cpu in cortex-a53 cortex-a72 cortex-a76; do
        echo "== aarch64, $cross, $qemu -cpu $cpu"
        "$qemu" -cpu $cpu "$out/aarch64/test_kernels" 60
        "$qemu" -cpu $cpu "$out/aarch64/test_bgemm"
        "$qemu" -cpu $cpu "$out/aarch64/test_threads"
    done
    "$qemu" -cpu cortex-a53 "$out/aarch64/test_ops_check"
    "$qemu" -cpu cortex-a53 "$out/aarch64/test_load"
    "$qemu" -cpu cortex-a53 "$out/aarch64/test_image"
else
    echo "NOT RUN: the NEON kernels, for want of $cross or $qemu"
fi
