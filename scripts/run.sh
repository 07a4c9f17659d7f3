#!/usr/bin/env bash
# From a fresh clone to a shell in a container:
#
#   scripts/run.sh                                     mydocker run -ti --mem 100m sh
#   scripts/run.sh run --rm busybox echo hi            any other mydocker command
#
# Installs what is missing, builds the static release binary, runs it as root. Whatever
# is said on the way goes to stderr: stdout is the container's alone.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$repo/scripts/setup.sh" run >&2
binary=$(build_release)

[ $# -gt 0 ] || set -- run -ti --mem 100m sh
[ "$(id -u)" != 0 ] || exec "$binary" "$@"
as_root "$binary" "$@"
