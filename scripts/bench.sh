#!/usr/bin/env bash
# Whole commands, timed against their peers and against the floor (scripts/floor.c), as interleaved ratios.
#   scripts/bench.sh start [--rounds N] [--gap SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-start}
[ $# -eq 0 ] || shift
script=scripts/bench/$what.py
[ -f "$script" ] || { echo "bench.sh: no benchmark \`$what\`; there are: $(ls scripts/bench | sed -n 's/\.py$//p' | grep -v '^timing$' | xargs)" >&2; exit 2; }
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH "$0" "$what" "$@"

target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --quiet --target "$target"
mkdir -p target/bench
cc -O2 -static -w -o target/bench/floor scripts/floor.c
bench=(python3 "$script" --mydocker "target/$target/release/mydocker" --floor target/bench/floor "$@")
if mountpoint -q /sys/fs/cgroup/unified; then
    # crun refuses to work where controllers of v1 have an empty v2 tree beside them; hidden from all alike.
    exec unshare --mount sh -c 'umount /sys/fs/cgroup/unified && exec "$@"' sh "${bench[@]}"
fi
exec "${bench[@]}"
