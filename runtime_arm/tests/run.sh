#!/bin/sh
# Builds and runs the C tests: natively with AddressSanitizer and UBSan, and for 64-bit and 32-bit ARM under qemu on several cores.
# usage: tests/run.sh [BUILD FOLDER]     CC, CROSS_CC, QEMU, ARM_CC and ARM_QEMU choose the tools.
set -eu
cd "$(dirname "$0")/.."
out=${1:-${TMPDIR:-/tmp}/bvt-tests}
cc=${CC:-cc} cross=${CROSS_CC:-aarch64-linux-gnu-gcc} qemu=${QEMU:-qemu-aarch64-static}
arm_cc=${ARM_CC:-arm-linux-gnueabihf-gcc} arm_qemu=${ARM_QEMU:-qemu-arm-static}
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
    :
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

if command -v "$arm_cc" >/dev/null && command -v "$arm_qemu" >/dev/null; then
    # UBSan would stop at a read that 32-bit ARM wants aligned and is not.
    build "$out/arm" arm "-static-libubsan" "$arm_cc" -O1 -march=armv7-a -mfpu=neon-vfpv4 -fsanitize=undefined -fno-sanitize-recover=all
    root=$("$arm_cc" -print-sysroot) # Debian's is /, and the libraries are beside
    [ -e "$root/lib/ld-linux-armhf.so.3" ] || root=/usr/arm-linux-gnueabihf
    for cpu in cortex-a7 cortex-a15; do
        echo "== arm, $arm_cc, UBSan, $arm_qemu -cpu $cpu"
        "$arm_qemu" -L "$root" -cpu $cpu "$out/arm/test_kernels" 60
        for t in test_bgemm test_threads; do "$arm_qemu" -L "$root" -cpu $cpu "$out/arm/$t"; done
    done
    for t in test_ops_check test_load test_image test_fuzz; do "$arm_qemu" -L "$root" -cpu cortex-a7 "$out/arm/$t"; done
else
    echo "NOT RUN: the kernels of 32-bit ARM, for want of $arm_cc or $arm_qemu"
fi
