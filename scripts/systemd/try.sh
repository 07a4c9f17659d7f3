#!/bin/sh
# try.sh before|after: tries the two units on a machine with systemd, before and after a reboot. In the VM:
#   scripts/vm powercut 'sh scripts/systemd/try.sh before' -- 'sh scripts/systemd/try.sh after'
# Never on a machine of yours: it installs, enables and kills.
set -eu
cd "$(dirname "$0")"

until_true() { # WHAT, a line for the shell
    for _ in $(seq 300); do
        if eval "$2"; then
            echo "ok: $1"
            return
        fi
        sleep 0.2
    done
    echo "not ok: $1"
    mydocker ps -a || :
    systemctl --no-pager status mydocker.service mydocker@web.service || :
    exit 1
}

pid_of() { mydocker inspect -f '{{.State.Pid}}' "$1" 2>/dev/null || echo 0; }
state_of() { mydocker inspect -f '{{.State.Status}}' "$1" 2>/dev/null || echo none; }

before() {
    install -m 755 "$(command -v mydocker)" /tmp/mydocker.new
    mv /tmp/mydocker.new /usr/local/bin/mydocker
    cp mydocker.service mydocker@.service /etc/systemd/system/
    mkdir -p /etc/mydocker
    echo 'ARGS=-m 64m busybox sleep 100000' >/etc/mydocker/web.env
    systemctl daemon-reload
    systemctl enable --now mydocker.service mydocker@web.service
    until_true "a container runs as a service" '[ "$(state_of web)" = running ]'
    was=$(pid_of web)
    kill -9 "$was"
    until_true "systemd starts it again" '[ "$(state_of web)" = running ] && [ "$(pid_of web)" != "$was" ]'
    systemctl stop mydocker@web.service
    until_true "systemctl stop ends and removes it" '[ "$(state_of web)" = none ]'
    systemctl start mydocker@web.service
    mydocker run -d --name always --restart always busybox sleep 100000
    mydocker run -d --name unless --restart unless-stopped busybox sleep 100000
    mydocker run -d --name stopped --restart unless-stopped busybox sleep 100000
    mydocker stop -t 0 stopped
    systemctl restart mydocker.service
    until_true "what runs goes on when the unit is started again" '[ "$(state_of always)" = running ]'
    sync
}

after() {
    until_true "--restart always runs again after the boot" '[ "$(state_of always)" = running ]'
    until_true "--restart unless-stopped too" '[ "$(state_of unless)" = running ]'
    until_true "the service runs again" '[ "$(state_of web)" = running ]'
    until_true "the unit is active" 'systemctl is-active --quiet mydocker.service'
    until_true "what was stopped stays stopped" '[ "$(state_of stopped)" = exited ]'
}

case ${1:-} in
before | after) "$1" ;;
*) sed -n 2,4p "$0"; exit 2 ;;
esac
