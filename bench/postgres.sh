#!/usr/bin/env bash
# A private PostgreSQL for the benchmark: durable, on a socket of its own, gone when it is stopped.
#
#   postgres.sh install      installs it by apt, where it is missing
#   postgres.sh start DIR    makes a cluster in DIR, starts it, and prints the directory of its socket
#   postgres.sh stop DIR     stops it; DIR can then be removed
#
# Nothing is tuned but what a fair comparison needs: fsync and synchronous_commit stay on, as they are by default. The memory
# for pages is as large as the caches that the vault has by default.
set -euo pipefail

die() {
    printf 'postgres.sh: %s\n' "$*" >&2
    exit 1
}

# The programs of the newest version that is installed, or nothing.
programs() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)
    [[ -x $found ]] || found=$(command -v initdb) || return 0
    dirname "$found"
}

# PostgreSQL refuses to run as root: then its own user runs it.
as_owner() {
    if ((EUID == 0)); then runuser -u postgres -- "$@"; else "$@"; fi
}

install() {
    [[ -z $(programs) ]] || return 0
    command -v apt-get >/dev/null || die "there is no apt here: install PostgreSQL 15 or newer by other means"
    ((EUID == 0)) || die "installing takes root: sudo $0 install"
    apt-get update -qq
    # Its package would start a cluster of its own, which nobody asked for.
    mkdir -p /etc/postgresql-common
    [[ -e /etc/postgresql-common/createcluster.conf ]] ||
        printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null
}

start() {
    local dir=$1 bin
    bin=$(programs)
    [[ -n $bin ]] || exit 3
    mkdir -p "$dir"
    if ((EUID == 0)); then chown postgres "$dir"; fi
    as_owner "$bin/initdb" --pgdata="$dir/data" --username=bench --auth=trust --no-sync >/dev/null
    as_owner "$bin/pg_ctl" --pgdata="$dir/data" --log="$dir/log" --wait --silent start --options="-c listen_addresses='' \
        -c unix_socket_directories='$dir' -c shared_buffers=384MB -c max_connections=100" >/dev/null ||
        die "it does not start: $(tail -n 3 "$dir/log" 2>/dev/null)"
    printf '%s\n' "$dir"
}

stop() {
    local bin
    bin=$(programs)
    as_owner "$bin/pg_ctl" --pgdata="$1/data" --mode=fast --wait --silent stop
}

case ${1:-} in
    install) install ;;
    start | stop) [[ -n ${2:-} ]] || die "give the directory: $1 DIR"; "$1" "$2" ;;
    *) die "there are install, start DIR and stop DIR" ;;
esac
