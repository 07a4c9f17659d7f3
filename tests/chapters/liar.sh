#!/bin/sh
# Prints what an engine would print, and makes nothing: no check of the chapters may be passed by it.
case ${1:-} in
run) ;;
ps) echo 'CONTAINER ID   IMAGE     COMMAND      CREATED         STATUS                       PORTS     NAMES' &&
    echo '3f2a91b0c7d4   busybox   "sleep 9"    2 seconds ago   Exited (137) 1 second ago              ch07' && exit ;;
logs) echo out && echo err >&2 && exit ;;
exec) exit 42 ;;
import | commit) echo sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 && exit ;;
*) exit 0 ;;
esac
shift
while :; do
    case ${1:-} in
    -d) echo 3f2a91b0c7d43f2a91b0c7d43f2a91b0c7d43f2a91b0c7d43f2a91b0c7d43f2a && exit ;;
    --name | --hostname | -h | -v | -p | --mem | -m | --memory | --cpus | --pids-limit | --network) shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
[ "${1:-}" != busybox ] || shift
case "$*" in
cat) exec cat ;;
*'tail /dev/zero') exit 137 ;;
*hostname) echo box ;;
*'echo $$') echo 1 ;;
'sh -c exit '*) exit "${3#exit }" ;;
*'exec cat'*) exec cat ;;
esac
