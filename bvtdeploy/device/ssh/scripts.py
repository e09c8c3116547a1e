"""What runs on the device: short scripts for a POSIX shell (dash, busybox). Nothing else is needed there.

Each prints a line with a marker of ours before its answer, and what prints anything another after it: what login scripts print
comes before or after. Names: `$HOME/.cache/
bvtdeploy` is the base folder; in it are `store/SHA256`, files that were kept, and `run-PID.BORN/`, the private folder of a session,
where PID and BORN (its start, in the kernel's ticks) are those of the session's keeper. A process with this PID and another BORN is
another process, so a dead session's folder is recognised for certain.
"""

from __future__ import annotations

# Who lives, and tidying up after those who do not. Names of files are PID.BORN in digits, or are nobody's: others may write where
# the lock is.
_COMMON = r"""
LC_ALL=C; export LC_ALL; umask 077
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/vc/bin
born() {
  b=$(cat "/proc/$1/stat" 2>/dev/null) || return
  b=${b##*) }; set -- $b
  [ "$1" = Z ] || echo "${20}"
}
named() {
  case $1 in *[!0-9.]*|*.*.*|.*|*.) return 1;; *.*) return 0;; esac
  return 1
}
own() { [ -O "$1" ] && [ ! -L "$1" ]; }
alive() { named "$1" && [ "$(born "${1%%.*}")" = "${1#*.}" ]; }
sweep() {
  for p in "$1"/.program.*; do
    own "$p" || continue
    p=${p##*/.program.}
    alive "$p" && { kill -9 "-${p%%.*}"; kill -9 "${p%%.*}"; } 2>/dev/null
  done
  rm -rf "$1" 2>/dev/null || { sleep 1; rm -rf "$1"; }
}
"""

# KEEPER mark token who folder
# Waits for nobody: exit code 75 where another session has the device. Else it chooses the base folder, and holds the lock and the
# private folder until its input ends, by our wish or because the connection is gone, and removes both. Each line that comes is a
# sign of life: it is answered, and the lock becomes young again.
# The lock: every session puts a file into one folder, and has the lock if no living session's file was there. All users of a device
# share that folder, so nothing in it is believed: a process is ended only for a file of our own, and only if it is a keeper with
# the token in that file. A file is made aside and renamed, never written through. Base folders are made and removed under the lock
# alone; the lock's folder is removed by whoever finds it empty, and who finds it removed makes it again.
# Where the processes of others are hidden (hidepid), a young file of another user counts as a living session's.
LOCKS = "/run/lock /dev/shm /tmp"
KEEPER = (
    _COMMON
    + r"""
mark=$1 token=$2 who=$3 folder=$4
say() { printf '%s\n' "$*"; }
unfit() { say "no $d: $1"; rm -f "$f"; rmdir "$d"; return 1; }
fits() {
  d=$1
  if [ -L "$d" ]; then say "no $d: it is a link"; return 1; fi
  if ! w=$(mkdir -p "$d" 2>&1); then say "no $d: ${w##*: }"; return 1; fi
  [ -O "$d" ] || { say "no $d: it is somebody else's"; return 1; }
  f=$d/.try.$$
  if ! { printf '#!/bin/sh\n:\n' >"$f"; } 2>/dev/null; then
    w=full; [ -w "$d" ] || w='it cannot be written'
    unfit "$w"; return 1
  fi
  [ -s "$f" ] || { unfit full; return 1; }
  chmod 700 "$f" "$d"
  "$f" 2>/dev/null || { unfit 'programs may not run there (mounted noexec)'; return 1; }
  rm -f "$f"
}
exec 2>/dev/null
say "$mark"
me=$$.$(born $$)
u=bvtdeploy-$(id -u)
if [ -n "$folder" ]; then set -- "$folder/$u"
else
  set -- "/var/tmp/$u" "/tmp/$u" "/dev/shm/$u"
  c=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  [ -z "$c" ] || set -- "$c/bvtdeploy" "$@"
fi
note() {
  rm -f "$lock/.$me"; umask 022; set -C
  printf '%s\n' "$token" "$who" >"$lock/.$me"
  set +C; umask 077
  own "$lock/.$me" && [ -s "$lock/.$me" ] && mv -f "$lock/.$me" "$lock/$me" && own "$lock/$me"
}
hold() {
  lock=$1/bvtdeploy.lock
  for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if [ -n "$2" ]; then mkdir -p "$1"; own "$1" || continue; fi
    mkdir -m 1777 "$lock"
    [ ! -L "$lock" ] && note && return 0
  done
  lock=; return 1
}
away() {
  rmdir "$1"
  case $1 in */.cache/bvtdeploy) rmdir "${1%/*}";; esac
}
gone() {
  trap '' HUP INT TERM PIPE; trap - EXIT; cd /
  [ -z "$run" ] || sweep "$run"
  [ -z "$base" ] || { rmdir "$base/store"; away "$base"; }
  if [ -n "$lock" ]; then rm -f "$lock/$me" "$lock/.$me"; rmdir "$lock"; fi
  [ -z "$within" ] || away "$within"
  [ -z "$run" ] || say gone
}
run= base= lock= within=
trap gone EXIT; trap exit HUP INT TERM; trap '' PIPE
for l in """
    + LOCKS
    + r"""; do
  [ -d "$l" ] && [ -w "$l" ] && hold "$l" && break
done
[ -n "$lock" ] || for within; do hold "$within" ours && break; within=; done
[ -n "$lock" ] || { for d; do fits "$d" && rmdir "$d"; done; say "no $1: nothing can be written for the lock"; exit 74; }
hidden=; [ -n "$(born 1)" ] || hidden=1
keeper() { tr '\0' '\n' <"/proc/$1/cmdline" | grep -qxF "bvtdeploy-$2"; }
holder=
for f in "$lock"/*; do
  n=${f##*/}
  named "$n" && [ -f "$f" ] && [ ! -L "$f" ] && [ "$n" != "$me" ] || continue
  t= h=
  { read -r t; read -r h; } <<EOF
$(head -c 400 "$f")
EOF
  old=$(find "$f" -mmin +2)
  if alive "$n" && [ -O "$f" ] && { [ "$t" = "$token" ] || [ -n "$old" ]; }; then
    p=${n%%.*}; i=0
    if keeper "$p" "$t"; then
      kill "$p"
      while alive "$n" && [ $i -lt 30 ]; do i=$((i+1)); sleep 0.1 || sleep 1; done
      alive "$n" && kill -9 "$p"
    fi
    rm -f "$f"
  elif [ -z "$old" ] && { alive "$n" || { [ -n "$hidden" ] && [ ! -O "$f" ]; }; }; then holder=${h:-somebody}
  elif ! alive "$n"; then rm -f "$f"
  fi
done
if [ -n "$holder" ]; then say "busy $holder"; exit 75; fi
for d; do if fits "$d"; then base=$d; break; fi; done
[ -n "$base" ] || exit 74
for d; do
  own "$d" || continue
  for r in "$d"/run-*; do
    n=${r##*/run-}
    named "$n" && [ -d "$r" ] && own "$r" && ! alive "$n" && sweep "$r"
  done
done
run=$base/run-$me
mkdir "$run" || { mkdir -p "$base"; mkdir "$run"; } || { run=; exit 74; }
say "ready $run"
while read -r n; do note; say "beat"; done
exit 0
"""
)

# CLEAN mark folder  (for each folder of files that were kept: "KIB PATH"; "left PATH" where it cannot be removed)
# Run while a session has the lock. What is empty then goes too; the session's own base folder goes at its end.
CLEAN = r"""
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
printf '%s\n' "$1"
exec 2>/dev/null
u=bvtdeploy-$(id -u)
c=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
for d in "${2:+$2/$u}" "${c:+$c/bvtdeploy}" "/var/tmp/$u" "/tmp/$u" "/dev/shm/$u"; do
  [ -n "$d" ] && [ -O "$d" ] && [ ! -L "$d" ] || continue
  s=$d/store
  if [ -d "$s" ] && [ ! -L "$s" ]; then
    set -- $(du -sk "$s")
    rm -rf "$s"
    if [ -d "$s" ]; then echo "left $s"; else echo "${1:-0} $s"; fi
  fi
  rmdir "$d"
done
exit 0
"""

_SUM = r"""
sum_of() {
  case $1 in openssl) openssl dgst -sha256 -r "$2";; busybox) busybox sha256sum "$2";; *) "$1" "$2";; esac 2>/dev/null
}
"""

# HAVE mark run name sha256 mode sums  ("have", or "need FREE_KIB")
# A file that was kept, or was pushed in this session, is linked into the private folder; its content is checked.
HAVE = (
    _SUM
    + r"""
LC_ALL=C; umask 077
mark=$1 run=$2 name=$3 sum=$4 mode=$5 sums=$6
cd "$run" || exit 72
printf '%s\n' "$mark"
for f in "../store/$sum" "./.store/$sum"; do
  [ -f "$f" ] || continue
  for s in $sums; do
    h=$(sum_of $s "$f") && break
  done
  [ "${h%% *}" = "$sum" ] || { rm -f "$f"; continue; }
  chmod "$mode" "$f"; rm -f "./$name"
  ln "$f" "./$name" || cp -p "$f" "./$name" || exit 73
  echo have; exit 0
done
set -- $(df -Pk . 2>/dev/null | tail -n 1)
echo "need ${4:--1}"
"""
)

# PUT mark run name sha256 mode size keep sums  (content on stdin; "sum SHA256" or "sum none")
# Whole or not at all: written aside, counted, summed, renamed.
PUT = (
    _SUM
    + r"""
LC_ALL=C; umask 077
mark=$1 run=$2 name=$3 sum=$4 mode=$5 size=$6 keep=$7 sums=$8
cd "$run" || exit 72
printf '%s\n' "$mark"
part=./.part.$$
trap 'rm -f "$part"' EXIT; trap exit HUP INT TERM
cat >"$part" || exit 73
n=$(wc -c <"$part")
[ "$n" -eq "$size" ] || { echo "size $n"; exit 73; }
h=none
for s in $sums; do
  h=$(sum_of $s "$part") && break
  h=none
done
h=${h%% *}
echo "sum $h"
[ "$h" = none ] || [ "$h" = "$sum" ] || exit 71
chmod "$mode" "$part" || exit 73
d=./.store
if [ "$keep" = 1 ] && [ "$h" != none ]; then d=../store; fi
mkdir -p "$d" && mv -f "$part" "$d/$sum" || exit 73
rm -f "./$name"
ln "$d/$sum" "./$name" || cp -p "$d/$sum" "./$name" || exit 73
"""
)
SUMS = "sha256sum busybox openssl"

# RUN mark run limit argv...
# Without a terminal a program outlives its connection. Two watchers end it: one when our side is gone (its input ends), one when it
# has taken too long and our side did not say so. They end its process group, where the device can make one. The shell says
# "Killed" then, to nobody, and must survive that.
RUN = (
    _COMMON
    + r"""
mark=$1 run=$2 limit=$3; shift 3
if [ -n "$run" ]; then cd "$run" || exit 72; fi
printf '%s\n' "$mark"
exec 3<&0
s=; command -v setsid >/dev/null 2>&1 && s=setsid
$s "$@" </dev/null 3<&- & p=$!
trap '' PIPE HUP
end() { kill -9 "-$p"; kill -9 "$p"; }
{ ( cat <&3 & c=$!; trap 'kill $c; exit' TERM; wait $c; end ) & w=$!; } >/dev/null 2>&1
{ ( exec 3<&-; sleep "$limit" & c=$!; trap 'kill $c; exit' TERM; wait $c; end ) & l=$!; } >/dev/null 2>&1
exec 3<&-
r=
if [ -n "$run" ]; then r=./.program.$p.$(born $p); : >"$r"; fi
wait $p; x=$?
[ -z "$s" ] || kill -9 "-$p" 2>/dev/null
kill $w $l
[ -z "$r" ] || rm -f "$r"
printf '%s.\n' "$mark"
exit $x
"""
)

# SYSTEM mark limit argv...  (exit code 127 without the line "there": no such program)
FINDS = r"""
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/vc/bin
command -v "$4" >/dev/null 2>&1 || { printf '%s\nabsent\n' "$1"; exit 0; }
"""
SYSTEM = FINDS + RUN

# PULL mark run name  (size, then content)
PULL = r"""
cd "$2" || exit 72
[ -f "./$3" ] || exit 70
printf '%s\n' "$1"
n=$(wc -c <"./$3"); echo $n
cat "./$3"
"""

# READ mark pattern...  (for each file: "MARK<path", content, "MARK>exit code")
READ = r"""
m=$1; shift
printf '%s\n' "$m"
IFS=
for g; do for f in $g; do
  [ -f "$f" ] || continue
  printf '%s<%s\n' "$m" "$f"
  cat "$f" 2>/dev/null
  printf '%s>%s\n' "$m" $?
done; done
"""

# FACTS mark folder  ("name=value" lines)
FACTS = r"""
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
printf '%s\n' "$1"
exec 2>/dev/null
echo "system=$(uname -s)"; echo "machine=$(uname -m)"; echo "kernel=$(uname -r)"
for s in /proc/self/exe /bin/sh; do
  x=$(od -An -tx1 -N20 "$s" || hexdump -n 20 -v -e '/1 " %02x"' "$s")
  [ -z "$x" ] || { echo "shell=$(echo $x)"; break; }
done
echo "nproc=$(nproc || getconf _NPROCESSORS_ONLN)"
echo "page=$(getconf PAGESIZE)"
c=$(getconf GNU_LIBC_VERSION)
if [ -z "$c" ]; then
  for l in /lib/ld-musl-* /lib/*/libc.so.6 /lib/libc.so.6 /lib64/libc.so.6; do
    [ -e "$l" ] || continue
    case $l in */ld-musl-*) c="musl $("$l" 2>&1 | sed -n 's/^Version //p')";; *) c=$("$l" | head -n 1);; esac
    break
  done
fi
echo "libc=$c"
echo "uid=$(id -u)"; echo "date=$(date +%s)"
echo "init=$(tr '\0' ' ' </proc/1/cmdline)"
# A virtual machine on an x86 CPU has it too, and times of that real CPU.
case $(uname -m) in x86_64|i?86);; *) [ -d /sys/firmware/qemu_fw_cfg ] && echo "qemu=yes";; esac
for d in "$2" "${XDG_CACHE_HOME:-$HOME/.cache}" "$HOME" /var/tmp /tmp; do
  [ -n "$d" ] && [ -d "$d" ] || continue
  set -- "" "" $(df -Pk "$d" | tail -n 1)
  echo "disk=$d"; echo "disk_free_kib=$6"; break
done
exit 0
"""
