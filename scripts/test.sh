#!/usr/bin/env bash
# Every check there is, and a table of what ran:
#
#   scripts/test.sh            formatting, lints, scripts, unit and black-box tests
#   scripts/test.sh --quick    … without the tests that run containers
#   scripts/test.sh --vm       … and the whole suite in a VM, on cgroup v2 and on v1 (--vm=v2: one)
#   scripts/test.sh --vm=smoke … and in a VM with pure cgroup v2 only a smoke of it, and a power cut (as CI does)
#
# Installs what is missing. Needs root for the tests (asks sudo if it must); the owner of
# the work tree compiles. A test that cannot run on this machine is counted as skipped and
# its reason is printed; the exit status is 0 only if nothing failed.
set -uo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

quick=''
vm='' # the layouts to boot
for word in "$@"; do
    case $word in
    --quick) quick=yes ;;
    --vm) vm='v2 v1' ;;
    --vm=smoke) vm=smoke ;;
    --vm=v1 | --vm=v2 | --vm=hybrid) vm=${word#*=} ;;
    *) die "no option \`$word\`" "scripts/test.sh [--quick] [--vm[=v1|v2|hybrid|smoke]]" ;;
    esac
done

if [ -n "$vm" ]; then level='vm'; else level='test'; fi
"$repo/scripts/setup.sh" "$level" || exit
find_cargo
cd "$repo" || exit
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

rows=()
failed=0

row() { # NAME RESULT SECONDS PASSED FAILED SKIPPED
    rows+=("$(printf '%-34s %-8s %7s %7s %7s %8s' "$@")")
}

# Runs one step, its output into a log; a failing log is shown at once, as a whole.
step() { # NAME COMMAND…
    local name=$1 began=$EPOCHREALTIME log result=ok seconds counts
    shift
    log=$logs/${#rows[@]}
    say "$name …"
    "$@" >"$log" 2>&1 </dev/null || {
        result=FAILED
        failed=$((failed + 1))
        printf '\n---- %s: `%s` failed ----\n' "$name" "$*"
        # Of a test run, what failed; of anything else, everything.
        if grep -q '^failures:$' "$log"; then sed -n '/^failures:$/,/^test result/p;/^error/p;/^Caused by/,/^$/p' "$log"; else grep -vE '^ +(Checking|Compiling|Downloaded|Downloading) ' "$log"; fi
    }
    seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')
    read -r -a counts <<<"$(count "$log")"
    row "$name" "$result" "$seconds" "${counts[@]:--}"
}

# "passed failed skipped" of every `test result:` line. A test that found that it cannot
# run here passes for cargo, but has said `skipped: REASON`: it moves to the last column.
count() { # LOG
    awk '
        /^test result:/ { seen = 1; for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
            if ($(i + 1) ~ /^ignored/) skipped += $i } }
        /^skipped: / && !told[$2]++ { unable++ } # one that skips parts says so for each
        /^all +[0-9]/ { seen = 1; passed += $2; failed += $3; skipped += $4 } # the table of scripts/vm
        END { if (seen) print passed - unable, failed + 0, skipped + unable; else print "- - -" }' "$1"
}

skip() { # NAME REASON
    say "$1: skipped: $2"
    row "$1" skipped - - - -
}

scripts_parse() {
    local file
    for file in scripts/*.sh scripts/vmlib/*.sh .ci/run; do bash -n "$file" || return; done
    python3 - scripts/vm scripts/vmlib/*.py scripts/chapters scripts/courselib/*.py <<'PYTHON' || return
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name).read(), name)
PYTHON
    if command -v shellcheck >/dev/null; then shellcheck -S warning -x scripts/*.sh .ci/run || return; fi
    if command -v vagrant >/dev/null; then
        VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DOTFILE_PATH=$logs/vagrant vagrant validate --ignore-provider
    fi
}

# Compiled by the owner of the work tree, run by root: for root's cargo all is fresh.
run_tests() {
    as_builder "$cargo" test --locked --no-run || return
    local status
    as_root env PATH="$(dirname "$cargo"):$PATH" HOME="$builder_home" ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} \
        "$cargo" test --locked --offline --no-fail-fast -- --show-output
    status=$?
    [ "$builder" = root ] || as_root find "${CARGO_TARGET_DIR:-target}" -user root -exec chown -h "$builder" {} +
    return $status
}

lint() { # NAME SUBCOMMAND COMMAND…
    local name=$1 part=$2
    shift 2
    if as_builder "$cargo" "$part" --version >/dev/null 2>&1; then
        step "$name" as_builder "$cargo" "$@"
    else
        skip "$name" "this toolchain has no cargo $part"
    fi
}

lint "formatting" fmt fmt --all --check
lint "lints" clippy clippy --all-targets --locked -- -D warnings
step "scripts" scripts_parse
if [ -n "$quick" ]; then
    step "unit tests" as_builder "$cargo" test --locked --lib --bins
else
    step "unit and black-box tests" run_tests
    grep -h '^skipped: ' "$logs"/* 2>/dev/null | sort | uniq -c
fi
if [ "$vm" = smoke ]; then
    step "a smoke in a VM, cgroup v2" as_builder python3 scripts/vm test --cgroup v2 --only guard
    vm=''
    step "a power cut in a VM" as_builder python3 scripts/vm reboot
fi
for cgroup in $vm; do
    step "the suite in a VM, cgroup $cgroup" as_builder python3 scripts/vm test --cgroup "$cgroup"
done
[ -z "$vm" ] || step "a power cut in a VM" as_builder python3 scripts/vm reboot

printf '\n%-34s %-8s %7s %7s %7s %8s\n' step result time passed failed skipped
printf '%s\n' "${rows[@]}"
[ "$failed" = 0 ] || printf '\n%s of %s steps failed\n' "$failed" ${#rows[@]}
[ "$failed" = 0 ]
