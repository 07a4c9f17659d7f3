# shellcheck shell=bash
# Sourced by run.sh, test.sh and setup.sh: who builds, who is root, how we speak.
#
# Three ways lead here: root on a server (root has cargo), a user who types `sudo
# scripts/run.sh` (only the user has cargo), a user who types `scripts/run.sh`. The
# rule is the same for all: the owner of the work tree builds, so that `target/` stays
# theirs; root runs the engine, because namespaces and cgroups ask for it.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
me=${0##*/}
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "$me" "$*" >&2; }

die() { # TEXT [HINT]
    printf '%s: error: %s\n' "$me" "$1" >&2
    [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# Sets `cargo` (a path, or empty), `builder` (a user name) and `builder_home`.
find_cargo() {
    local me_here user candidate
    me_here=$(id -un)
    user=${SUDO_USER:-$me_here}
    builder=$me_here
    [ "$me_here" != root ] || [ "$(stat -c %U "$repo")" != "$user" ] || builder=$user
    builder_home=$(home_of "$builder")
    cargo=
    for candidate in "$([ "$builder" != "$me_here" ] || command -v cargo)" "$builder_home/.cargo/bin/cargo" \
        "$(command -v cargo)" "$(home_of "$user")/.cargo/bin/cargo"; do
        [ ! -x "$candidate" ] || {
            cargo=$candidate
            break
        }
    done
    # Somebody else's rustup works if it is told where its toolchains are.
    candidate=${cargo%/.cargo/bin/cargo}/.rustup
    [ "$candidate" = "$cargo/.rustup" ] || [ ! -d "$candidate" ] || export RUSTUP_HOME="${RUSTUP_HOME:-$candidate}"
}

# Runs a command as the owner of the work tree, with cargo in reach.
as_builder() {
    local path
    path=$(dirname "$cargo"):$PATH
    if [ "$builder" = "$(id -un)" ]; then
        PATH=$path "$@"
    else
        runuser -u "$builder" -- env HOME="$builder_home" USER="$builder" PATH="$path" "$@"
    fi
}

# Runs a command as root; what the engine and cargo read from the environment goes along.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=MYDOCKER_ROOT,MYDOCKER_BIN,RUST_LOG,RUST_BACKTRACE,TERM,CI -- "$@"
    else
        die "this needs root, and there is no sudo here" "su -c '$0'"
    fi
}

host_triple() { as_builder "$cargo" -vV | sed -n 's/^host: //p'; }

# Builds the static release binary and prints its path. `+crt-static` must go with an
# explicit --target, or proc-macro crates fail to build. A fixed address for our code
# spares every start 14,000 relocations, 62 copied pages and as many page faults (5 % of a
# start); stack, heap and mappings stay random. cargo itself says where the binary is,
# which also holds for a target folder of your own.
build_release() {
    local quiet=-q messages
    find_cargo
    compgen -G "${CARGO_TARGET_DIR:-$repo/target}/*/release/mydocker" >/dev/null || {
        say "building mydocker (a minute or two, once)"
        quiet=
    }
    messages=$(cd "$repo" && RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
        as_builder "$cargo" build $quiet --release --locked --bin mydocker --target "$(host_triple)" \
        --message-format=json-render-diagnostics) || die "the build failed (above)"
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | tail -1
}
