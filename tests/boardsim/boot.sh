#!/bin/sh
# boot.sh ROOT PORT CPU FACTS: a simulated board, inside the namespaces of namespaces.py. Every mount is private and goes with them.
set -e
root=$1 port=$2 cpu=$3 facts=$4
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc # of this user namespace alone: Linux 6.7 and later
cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
mount -t tmpfs tmpfs /mnt -o mode=755
mkdir -p /mnt/up /mnt/work /mnt/board
mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/up,workdir=/mnt/work" /mnt/board # every start finds a fresh board
root=/mnt/board
mount -t proc proc $root/proc
for d in tmp var/tmp; do mount -t tmpfs tmpfs $root/$d -o mode=1777; done
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/full -o size=1m,mode=1777
mount -t tmpfs tmpfs $root/noexec -o noexec,mode=1777
mount -t tmpfs tmpfs $root/dev -o mode=755
for d in null zero full random urandom tty; do
    touch $root/dev/$d
    mount --bind /dev/$d $root/dev/$d
done
mkdir -p $root/dev/pts
mount -t devpts devpts $root/dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx $root/dev/ptmx
mount --bind "$facts/cpuinfo" $root/proc/cpuinfo
mount --bind "$facts/sys" $root/sys
mount --bind "$facts/bin" $root/usr/local/bin
if [ -d "$facts/etc" ]; then cp -a "$facts/etc/." $root/etc/; fi
hostname "$(cat $root/etc/hostname)"
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin QEMU_CPU="$cpu" chroot $root \
    /usr/sbin/dropbear -F -E -e -p "127.0.0.1:$port" -P /run/dropbear.pid
