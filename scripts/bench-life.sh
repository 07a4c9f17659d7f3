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
    python3 -c 'import json,sys; r=json.load(open(sys.argv[1]))["results"][0]; print(f"{sys.argv[2]:<28} {r[\"median\"]*1000:8.2f} ms  (least {r[\"min\"]*1000:.2f})")' "$work/json" "$1"
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
    crun run -d -b "$work/bundle" $id </dev/null >/dev/null 2>&1
    median "crun exec" "crun exec $id true"
    crun delete -f $id
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
