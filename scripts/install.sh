#!/usr/bin/env bash
# Builds the static binary and installs it: scripts/install.sh [/usr/local/bin/mydocker]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$repo/scripts/setup.sh" run >&2
binary=$(build_release)
as_root install -D -m 755 "$binary" "${1:-/usr/local/bin/mydocker}"
say "${1:-/usr/local/bin/mydocker} is $(stat -c %s "$binary") bytes, static"
