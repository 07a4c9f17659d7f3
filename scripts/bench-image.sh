#!/bin/sh
# Images beside the peers, as ratios of one run: import, save, load, commit of a large image, load of one with 20 layers.
# usage: scripts/bench-image.sh [MEGABYTES]      (needs root; uses docker, skopeo, umoci where they are)
# Docker's daemon is a private one, in network and mount namespaces of its own (never with --bridge=none, which would
# delete the docker0 of whichever network namespace it runs in).
set -eu
bin=${MYDOCKER_BIN:-target/release/mydocker}
bin=$(realpath "$bin")
size=${1:-300}
work=$(mktemp -d /var/tmp/bench-image.XXXXXX)
daemon=
finish() { [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null || true; }; rm -rf "$work"; }
trap finish EXIT INT TERM
m() { "$bin" --root "$work/root" "$@"; }
# Real files: what this machine has in /usr/lib and /usr/share, up to the size that is wanted.
mkdir "$work/tree" "$work/tree/bin"; cp /bin/busybox "$work/tree/bin/sh"
find /usr/lib /usr/share -xdev -type f -size -8M -printf '%s %p\0' 2>/dev/null |
    awk -v RS='\0' -v ORS='\0' -v most=$((size << 20)) '{ sum += $1; if (sum > most) exit; sub(/^[0-9]+ /, ""); print }' |
    tar --null -T - -cf - 2>/dev/null | tar -xf - -C "$work/tree"
tar -C "$work/tree" -cf "$work/tree.tar" .
echo "# $(du -m "$work/tree.tar" | cut -f1) MB, $(find "$work/tree" | wc -l) files, $(nproc) processors"

seconds() { # NAME COMMAND…: the least of three
    name=$1; shift; least=
    for _ in 1 2 3; do
        [ -z "${before:-}" ] || eval "$before" >/dev/null 2>&1 || true
        start=$(date +%s.%N); "$@" >/dev/null 2>"$work/err" || { echo "$name: failed: $(head -1 "$work/err")"; return; }
        least=$(echo "$(date +%s.%N) $start ${least:-1e9}" | awk '{ t = $1 - $2; print t < $3 ? t : $3 }')
    done
    printf '%-28s %8.3f s\n' "$name" "$least"
}
seconds "mydocker import" m import "$work/tree.tar" big:1
before='rm -f $work/m.tar'
seconds "mydocker save" m save -o "$work/m.tar" big:1
before='m rmi -f big:1; m image prune -f'
seconds "mydocker load" m load -i "$work/m.tar"
before='m rmi -f big:2; m image prune -f'
m create --name filled big:1 sh >/dev/null
cp -a "$work/tree/usr" "$work/root/containers/$(m inspect -f '{{.Id}}' filled)/upper/" 2>/dev/null ||
    { mkdir -p "$work/root/containers/$(m inspect -f '{{.Id}}' filled)/upper"; cp -a "$work/tree/usr" "$work/root/containers/$(m inspect -f '{{.Id}}' filled)/upper/"; }
seconds "mydocker commit" m commit filled big:2
before=
if command -v skopeo >/dev/null && command -v umoci >/dev/null; then
    before='rm -rf $work/sk $work/bundle'
    seconds "skopeo+umoci load" sh -c "skopeo copy -q docker-archive:$work/m.tar oci:$work/sk:x && umoci unpack --image $work/sk:x $work/bundle"
    before=
fi
if command -v dockerd >/dev/null; then
    unshare -n -m dockerd --data-root "$work/docker" --exec-root "$work/exec" -p "$work/pid" -H "unix://$work/sock" \
        --iptables=false --ip6tables=false >"$work/dockerd.log" 2>&1 &
    daemon=$!
    d() { docker -H "unix://$work/sock" "$@"; }
    for _ in $(seq 100); do d version >/dev/null 2>&1 && break; sleep 0.2; done
    before='d rmi -f big:1; d image prune -f'
    seconds "docker import" d import "$work/tree.tar" big:1
    before='rm -f $work/d.tar'
    seconds "docker save" d save -o "$work/d.tar" big:1
    before='d rmi -f big:1; d image prune -f'
    seconds "docker load" d load -i "$work/d.tar"
    seconds "docker load (ours)" d load -i "$work/m.tar"
    m rm filled >/dev/null
    before='m rmi -f big:1 big:2; m image prune -f'
    seconds "mydocker load (docker's)" m load -i "$work/d.tar"
fi
