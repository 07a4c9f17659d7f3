#!/bin/sh
# bench-life.sh [BINARY] [COUNT]: a life's commands beside crun's: run -d, exec, ps with COUNT containers, stop.
# Medians by hyperfine; leaves nothing behind. Needs root, hyperfine, and for the comparison crun and a static busybox.
set -eu
bin=${1:-target/release/mydocker}
count=${2:-500}
work=$(mktemp -d)
export MYDOCKER_ROOT="$work/root"
id=bench-life-$$
trap '"$bin" ps -aq | xargs -r "$bin" rm -f >/dev/null; crun delete -f $id 2>/dev/null || :; rm -rf "$work"' EXIT

median() { # name, command
    hyperfine -N --warmup 3 --runs "${RUNS:-50}" --export-json "$work/json" "$2" >/dev/null 2>&1
    python3 - "$work/json" "$1" <<'PY'
import json, sys
result = json.load(open(sys.argv[1]))["results"][0]
print("%-28s %8.2f ms  (least %.2f)" % (sys.argv[2], result["median"] * 1000, result["min"] * 1000))
PY
}

"$bin" run --rm busybox true
"$bin" run -d --name bench busybox sleep 1000000 >/dev/null
median "mydocker exec" "$bin exec bench true"
if command -v crun >/dev/null; then
    mkdir -p "$work/bundle/rootfs/bin"
    cp "$(command -v busybox)" "$work/bundle/rootfs/bin/busybox"
    for name in sh sleep true; do ln -s busybox "$work/bundle/rootfs/bin/$name"; done
    (cd "$work/bundle" && crun spec && python3 - <<'PY'
import json
config = json.load(open("config.json"))
config["process"].update(terminal=False, args=["sleep", "1000000"])
json.dump(config, open("config.json", "w"))
PY
    )
    mkdir -p "$work/bundle/rootfs/proc" "$work/bundle/rootfs/dev" "$work/bundle/rootfs/sys"
    crun run -d -b "$work/bundle" $id </dev/null >/dev/null 2>&1 || { echo "crun cannot run here (hybrid cgroups?)"; crun delete -f $id 2>/dev/null || :; }
    if crun state $id >/dev/null 2>&1; then
        median "crun exec" "crun exec $id true"
        crun delete -f $id
    fi
fi
median "mydocker run -d" "$bin run -d busybox sleep 1000000"
have=$("$bin" ps -q | wc -l)
while [ "$have" -lt "$count" ]; do "$bin" run -d busybox sleep 1000000 >/dev/null; have=$((have + 1)); done
median "mydocker ps with $have" "$bin ps"
pss=0; monitors=0
for state in "$MYDOCKER_ROOT"/run/*/state; do
    monitor=$(sed -n '1s/.*"monitor":\([0-9]*\).*/\1/p' "$state")
    pss=$((pss + $(awk '/^Pss:/ { print $2 }' "/proc/$monitor/smaps_rollup"))); monitors=$((monitors + 1))
done
echo "memory per monitor            $((pss / monitors)) kB (PSS, $monitors monitors)"
start=$(date +%s%N)
"$bin" ps -q | xargs -n 64 "$bin" stop -t 0 >/dev/null
echo "mydocker stop -t 0            $((($(date +%s%N) - start) / have / 1000)) us each"
