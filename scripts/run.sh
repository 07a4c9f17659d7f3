#!/usr/bin/env bash
# From a fresh clone to a shell in a container:
#
#   scripts/run.sh                                     mydocker run -ti --mem 100m sh
#   scripts/run.sh run --rm busybox echo hi            any other mydocker command
#
# Installs what is missing, builds the static release binary, runs it as root. Whatever
# is said on the way goes to stderr: stdout is the container's alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$repo/scripts/setup.sh" run >&2
find_cargo

# `+crt-static` must go with an explicit --target, or proc-macro crates fail to build.
# cargo says where the binary is; that also holds for a target folder of your own.
quiet=-q
[ -n "$(compgen -G "${CARGO_TARGET_DIR:-$repo/target}/*/release/mydocker" || true)" ] || {
    say "building mydocker (a minute or two, once)"
    quiet=
}
messages=$(cd "$repo" && RUSTFLAGS='-C target-feature=+crt-static' \
    as_builder "$cargo" build $quiet --release --locked --bin mydocker --target "$(host_triple)" \
    --message-format=json-render-diagnostics) || die "the build failed (above)"
binary=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | tail -1)
[ -x "$binary" ] || die "cargo built no binary"

[ $# -gt 0 ] || set -- run -ti --mem 100m sh
[ "$(id -u)" != 0 ] || exec "$binary" "$@"
as_root "$binary" "$@"
