#!/usr/bin/env bash
# Whole commands, timed against their peers and against the floor (scripts/floor.c), as interleaved ratios.
#   scripts/bench.sh start [--rounds N] [--gap SECONDS]
#   scripts/bench.sh life [--rounds N] [--count CONTAINERS]
#   scripts/bench.sh image [--size MB] [--rounds N]
#   scripts/bench.sh net [--rounds N] [--gap SECONDS] [--seconds N] [--turns N] [--only starts|wires]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repo"
what=${1:-start}
[ $# -eq 0 ] || shift
script=scripts/bench/$what.py
[ -f "$script" ] || { echo "bench.sh: no benchmark \`$what\`; there are: $(ls scripts/bench | sed -n 's/\.py$//p' | grep -vx 'timing\|peers\|wires' | xargs)" >&2; exit 2; }
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH "$0" "$what" "$@"

binary=$(build_release)
mkdir -p target/bench
cc -O2 -static -w -o target/bench/floor scripts/floor.c
cc -O2 -o target/bench/packets scripts/packets.c
bench=(python3 "$script" --mydocker "$binary" --floor target/bench/floor "$@")
[ "$what" != net ] || bench+=(--packets target/bench/packets)
# In a mount namespace of its own: the benchmark mounts folders of its own over the default ones. And crun refuses to
# work where controllers of v1 have an empty v2 tree beside them, so that is hidden, from all alike.
exec unshare --mount sh -c 'if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec "$@"' sh "${bench[@]}"
