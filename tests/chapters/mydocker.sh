#!/bin/bash
# A student's mydocker of chapters 01 and 02, in another language and with other words (-ti, --mem, no image): the checks
# must pass on it. With SABOTAGE one thing is left out or bent, and the check that it is for must notice.
#
#   mydocker.sh run -ti [--hostname NAME] [--mem 64m] [--cpus 0.5] [--pids-limit N] COMMAND [WORD...]
set -eu
sabotage=${SABOTAGE:-} id=sh-$$-$RANDOM memory='' cpus='' pids='' name=''
[ "${1:-}" = run ] && [ "${2:-}" = -ti ] || { echo "flag provided but not defined: ${2:-}" >&2; exit 2; }
shift 2
while :; do
    case ${1:-} in
    --hostname) name=$2 ;;
    --mem) memory=$((${2%m} << 20)) ;;
    --cpus) cpus=$(awk -v cpus="$2" 'BEGIN { printf "%.0f", cpus * 100000 }') ;;
    --pids-limit) pids=$2 ;;
    -*) echo "flag provided but not defined: $1" >&2 && exit 2 ;;
    *) break ;;
    esac
    shift 2
done

# Chapter 02: one cgroup per limit (v1), or one with all of them (v2).
cgroups=()
limit() { # CONTROLLER V1FILE V1VALUE V2FILE V2VALUE
    local tree=/sys/fs/cgroup file=$4 value=$5
    if [ -d "$tree/$1" ]; then tree=$tree/$1 file=$2 value=$3; else echo "+$1" >$tree/cgroup.subtree_control; fi
    [ "$sabotage" != 'one cgroup for all' ] || id=mydocker-sh-shared
    mkdir -p "$tree/$id"
    [ "$sabotage" = 'no limit' ] || echo "$value" >"$tree/$id/$file"
    case " ${cgroups[*]-} " in *" $tree/$id "*) ;; *) cgroups+=("$tree/$id") ;; esac
}
[ -z "$memory" ] || limit memory memory.limit_in_bytes "$memory" memory.max "$memory"
[ -z "$cpus" ] || limit cpu cpu.cfs_quota_us "$cpus" cpu.max "$cpus 100000"
[ -z "$pids" ] || limit pids pids.max "$pids" pids.max "$pids"
join() {
    for cgroup in ${cgroups[@]+"${cgroups[@]}"}; do echo "$1" >"$cgroup/cgroup.procs"; done
}
clean_up() {
    for cgroup in ${cgroups[@]+"${cgroups[@]}"}; do
        [ "$sabotage" = 'cgroup left behind' ] || rmdir "$cgroup" 2>/dev/null || true
    done
}
trap clean_up EXIT

# Chapter 01.
walls=(--uts --ipc --net --mount --cgroup --pid) proc='mount --make-private /proc && mount -t proc proc /proc || exit'
case $sabotage in
'no private propagation') walls+=(--propagation unchanged) ;;
'no new /proc') proc=: ;;
esac
[ "$sabotage" != 'a leaked folder' ] || exec 9</
begin='[ -z "$0" ] || echo "$0" >/proc/sys/kernel/hostname; exec "$@"'
[ "$sabotage" != 'words joined by spaces' ] || begin='exec sh -c "$*"'
[ "$sabotage" != 'host name ignored' ] || begin='exec "$@"'
if [ "$sabotage" = 'chroot only' ]; then
    root=$MYDOCKER_ROOT/rootfs
    mkdir -p "$root/bin" "$root/proc"
    [ -e "$root/bin/busybox" ] || cp "$(command -v busybox)" "$root/bin/busybox"
    for word in sh cat sleep; do ln -sf busybox "$root/bin/$word"; done
    begin="exec chroot $root \"\$@\""
fi
start() {
    # The caller's own descriptors are not for the container.
    for fd in /proc/$BASHPID/fd/*; do
        fd=${fd##*/}
        [ "$fd" -le 2 ] || [ "$fd" = 9 ] || eval "exec $fd>&-"
    done
    # The first child is process 1 in there. `unshare --fork` would wait for it, and answer 1 when it was killed.
    exec unshare "${walls[@]}" bash -c "{ $proc; $begin; } <&0 & wait \$!" "$name" "$@"
}
status=0
if [ "$sabotage" = 'cgroup joined after exec' ]; then
    start "$@" <&0 &
    sleep 0.3
    join "$(cat "/proc/$!/task/$!/children")"
    wait $! || status=$?
else
    (join $BASHPID && start "$@") || status=$?
fi
[ "$sabotage" != 'status always 0' ] || status=0
exit $status
