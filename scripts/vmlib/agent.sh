# shellcheck shell=bash disable=SC1091,SC2154
# The guest's half of scripts/vm, started by mydocker-vm.service from the second
# disk. It puts what the disk brought in its place, runs the job, and reports
# through virtio-serial ports: vm.out, vm.err and vm.status.
vm=/run/vm
ports=/dev/virtio-ports
. $vm/settings # CGROUP INTERACTIVE AS END TERMINAL ROWS WIDTH

exec </dev/null
udevadm settle --exit-if-exists=$ports/vm.status 2>/dev/null
exec 9<>$ports/vm.status

layout() {
    case $(stat -fc %T /sys/fs/cgroup) in
    cgroup2fs) echo v2 ;;
    *) [ -d /sys/fs/cgroup/unified ] && echo hybrid || echo v1 ;;
    esac
}

end() { # STATUS
    echo "exit $1" >&9
    [ "$END" = poweroff ] && sync && systemctl --force poweroff
    exit 0
}

while read -r root; do
    mkdir -p "$root"
    mount --bind "$vm/tree$root" "$root"
done <$vm/roots
[ -e $vm/bin/mydocker ] && install -m 755 $vm/bin/mydocker /usr/local/bin/mydocker

# A name for everything that a job may want to know about where it runs.
export HOME=/root USER=root LANG=C.UTF-8 TERM=$TERMINAL MYDOCKER_VM="$CGROUP"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd "$(head -1 $vm/roots)" || exit # the repository

if [ "$CGROUP" != any ] && [ "$(layout)" != "$CGROUP" ]; then
    echo "vm: asked for cgroup $CGROUP, but this guest has $(layout)" >$ports/vm.err
    end 125
fi
echo ready >&9

if [ "$INTERACTIVE" = yes ]; then
    console=/dev/$(sed 's/.*console=\([a-zA-Z0-9]*\).*/\1/' /proc/cmdline)
    exec 8<>"$console" # a window size lasts as long as somebody has the terminal open
    stty -F "$console" sane rows "$ROWS" cols "$WIDTH"
    setsid -c -w bash -il <&8 >&8 2>&1 9>&-
    end $?
fi

# Pipes between the job and the ports: a port is no pipe (one opener, no EOF).
mkfifo $vm/out $vm/err
cat $vm/out >$ports/vm.out 9>&- &
cat $vm/err >$ports/vm.err 9>&- &
if [ "$AS" = root ]; then
    bash $vm/job
else
    # A session of its own, with a systemd user manager and what that was delegated.
    systemd-run --quiet --pipe --wait --uid="$AS" --property=PAMName=login --working-directory="$PWD" \
        --setenv=MYDOCKER_VM="$CGROUP" bash -l $vm/job
fi >$vm/out 2>$vm/err 9>&-
status=$?
# What the job left behind may hold the pipes open; it does not hold us.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$(jobs -r)" ] && break
    sleep 0.2
done
end $status
