#!/usr/bin/env bash
# Installs what the project needs on a Debian or Ubuntu, and only what is missing.
#
#   scripts/setup.sh run     what scripts/run.sh needs: busybox, iptables, a C linker, cargo
#   scripts/setup.sh test    … and what scripts/test.sh needs (the default)
#   scripts/setup.sh vm      … and what scripts/vm needs: QEMU, mmdebstrap
#
# The one place that names packages: run.sh, test.sh, scripts/vm and the Vagrantfile all
# come here. A machine that has everything is left alone within milliseconds: each line
# of the tables below is a test for a command or a file, and apt is not even asked.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

has() { command -v "$1" >/dev/null; }

static_busybox() {
    local file
    file=$(command -v busybox) && ! ldd "$file" >/dev/null 2>&1
}

static_libc() { compgen -G '/usr/lib/*/libc.a' >/dev/null || [ -e /usr/lib/libc.a ]; }

# Package names for what is missing, one a line. The engine itself needs the first two.
missing() { # LEVEL
    static_busybox || echo busybox-static # the default image
    has iptables || echo iptables         # published ports, NAT
    has cc || echo gcc                    # links Rust programs, builds the floor of bench.sh
    static_libc || echo libc6-dev
    [ "$1" != run ] || return 0
    has ip || echo iproute2
    has ps || echo procps
    has unshare || echo util-linux
    has getfattr || echo attr
    has strace || echo strace # proves that a plan's list is complete
    has python3 || echo python3
    has git || echo git
    [ "$1" != test ] || return 0
    has mmdebstrap || echo mmdebstrap
    has mke2fs || echo e2fsprogs
    has newuidmap || echo uidmap # mmdebstrap without root
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    case $(uname -m) in
    x86_64) has qemu-system-x86_64 || echo qemu-system-x86 ;;
    aarch64) has qemu-system-aarch64 || echo qemu-system-arm ;;
    esac
}

rust_needed() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repo/Cargo.toml" 2>/dev/null | head -1; }

rust_version() { as_builder "$cargo" --version 2>/dev/null | cut -d' ' -f2; }

# A package of this distribution that brings a cargo that is new enough. Debian keeps a
# current one for its browsers under another name.
cargo_package() { # VERSION
    local package candidate
    for package in cargo cargo-web; do
        candidate=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: //p')
        case $candidate in '' | '(none)') continue ;; esac
        if dpkg --compare-versions "$candidate" ge "$1"; then
            echo "$package"
            return
        fi
    done
}

log=
quietly() { # TEXT COMMAND…
    say "$1"
    shift
    [ -n "$log" ] || log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 </dev/null
}

updated=
update() {
    [ -z "$updated" ] || return 0
    updated=yes
    has apt-get || die "this is no Debian-like system: there is no apt-get" "install by hand: $*"
    quietly "reading the package lists" apt-get -o DPkg::Lock::Timeout=300 update || true
}

install() { # PACKAGE…
    update "$*"
    quietly "installing $*" apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" || {
        tail -n 15 "$log" >&2
        if grep -qiE 'resolv|could not connect|unable to (fetch|connect|locate)|failed to fetch' "$log"; then
            die "apt cannot fetch: $*" "is this machine online? later: apt-get install $*"
        fi
        die "apt-get failed (above)" "apt-get install $*"
    }
}

setup_cargo() {
    local needed package
    needed=$(rust_needed)
    needed=${needed:-1.85}
    find_cargo
    if [ -z "$cargo" ]; then
        update cargo
        package=$(cargo_package "$needed")
        [ -n "$package" ] || die "there is no cargo here, and this distribution has none as new as $needed" \
            "https://rustup.rs installs it for your user; then run this again"
        install "$package"
        find_cargo
    fi
    [ -n "$cargo" ] || die "the distribution's cargo does not appear in PATH" "https://rustup.rs"
    have=$(rust_version) || true
    [ -n "$have" ] || die "\`$cargo\` does not run as $builder" "rustup default stable"
    [ "$(printf '%s\n' "$needed" "$have" | sort -V | head -1)" = "$needed" ] ||
        die "cargo $have is older than $needed, which this crate needs" "rustup update stable, or https://rustup.rs"
}

# cargo fmt and cargo clippy: from rustup, else from the distribution if it has the same version.
# Without them test.sh skips two steps and says so.
setup_lints() {
    local part package
    has apt-get || return 0
    compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || update
    for part in rustfmt:fmt clippy:clippy; do
        as_builder "$cargo" "${part#*:}" --version >/dev/null 2>&1 && continue
        if as_builder sh -c 'command -v rustup' >/dev/null 2>&1; then
            say "rustup component add ${part%:*}"
            as_builder rustup component add "${part%:*}" >/dev/null 2>&1 || true
            continue
        fi
        for package in rustfmt-web rustfmt rust-clippy-web rust-clippy; do
            case $package in *"${part%:*}"*) ;; *) continue ;; esac
            apt-cache policy "$package" 2>/dev/null | grep -q "Candidate: ${have%.*}\." || continue
            install "$package"
            break
        done
    done
}

level=${1:-test}
case $level in run | test | vm) ;; *) die "no level \`$level\`" "scripts/setup.sh run|test|vm" ;; esac
trap '[ -z "$log" ] || rm -f "$log"' EXIT

mapfile -t packages < <(missing "$level")
[ ${#packages[@]} = 0 ] || install "${packages[@]}"
setup_cargo
[ "$level" = run ] || setup_lints
