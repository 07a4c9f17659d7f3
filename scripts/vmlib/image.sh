# shellcheck shell=sh disable=SC1091,SC2154
# Runs inside mmdebstrap when the packages are in: $1 is the root directory.
# It turns a chroot into a machine that boots fast and quietly, and packs it.
# The variables IMAGE (folder for the results) and SIZE are set in front of it.
set -eu

# The initrd needs the disk driver and nothing else: 6 MB instead of 16.
echo 'MODULES=list' > "$1/etc/initramfs-tools/conf.d/mydocker"
printf '%s\n' virtio_pci virtio_mmio virtio_blk >> "$1/etc/initramfs-tools/modules"
chroot "$1" update-initramfs -u >/dev/null

echo 'LABEL=root / ext4 defaults 0 1' > "$1/etc/fstab"
echo mydocker-vm > "$1/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 mydocker-vm\n::1 localhost\n' > "$1/etc/hosts"
: > "$1/etc/resolv.conf"
# A machine id that is there at boot spares systemd its first-boot set-up.
rm -f "$1/etc/machine-id"
chroot "$1" systemd-machine-id-setup >/dev/null 2>&1
chroot "$1" passwd -d root >/dev/null
chroot "$1" useradd -m -u 1000 -s /bin/bash student
chroot "$1" passwd -d student >/dev/null

for unit in getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyAMA0.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-pstore.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
mkdir -p "$1/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' > "$1/etc/systemd/journald.conf.d/mydocker.conf"

# The job runs in a login session of root, as a command over ssh would.
cat > "$1/etc/systemd/system/mydocker-vm.service" <<'UNIT'
[Unit]
Description=The job that came with the second disk
After=basic.target dbus.service systemd-logind.service systemd-user-sessions.service

[Service]
ExecStart=/bin/sh -c 'mkdir -p /run/vm && mount LABEL=share /run/vm && exec /bin/bash /run/vm/agent.sh'
User=root
PAMName=login
StandardInput=null
TasksMax=infinity

[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$1/etc/systemd/system/multi-user.target.wants"
ln -sf ../mydocker-vm.service "$1/etc/systemd/system/multi-user.target.wants/mydocker-vm.service"

rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*.log "$1"/var/log/apt
mkdir "$IMAGE/tree"
cp -L "$1"/boot/vmlinuz-* "$IMAGE/vmlinuz"
cp -L "$1"/boot/initrd.img-* "$IMAGE/initrd"
# mmdebstrap has /proc, /sys and /dev mounted in there; a bind sees beneath them.
mount --bind "$1" "$IMAGE/tree"
mke2fs -q -t ext4 -L root -d "$IMAGE/tree" "$IMAGE/root.img" "$SIZE"
umount "$IMAGE/tree"
rmdir "$IMAGE/tree"
chmod 666 "$IMAGE"/*
