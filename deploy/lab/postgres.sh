#!/bin/bash
# A private PostgreSQL (Debian's packages), never the machine's own cluster, for the tests of
# registry/db and for several centrals on one database.
#   postgres.sh install|start|status|stop|purge
#   postgres.sh crash   kills all of its processes at once, as a loss of power would; start brings it back
# start and status print KEY=VALUE lines for the environment of the tests.
# Environment, all optional:
#   PG_STATE            state directory
#   PG_PORT             15432 or the next free one; a later start takes the same one again
#   PG_DURABLE=1        keeps fsync on. Off (the default, quicker) a change survives the death of the
#                       server and not that of the machine
#   PG_MAX_CONNECTIONS  200
#   PG_LISTEN           one more address to listen on, for the networks that this machine is in
cd "$(dirname "$0")" && . ./lib.sh
svc_init postgres "${PG_STATE:-}"
STOP_SIGNAL=INT # "fast": does not wait for clients to leave
PG_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
export PATH="$PATH:$PG_BIN"

svc_install() {
  apt_need postgresql postgresql-client
  PG_BIN=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
  export PATH="$PATH:$PG_BIN"
}

svc_start() {
  local U; U=$(id -un); [ "$(id -u)" = 0 ] && U=postgres
  [ -n "${PG_PORT:-}" ] || [ ! -s "$STATE/port" ] || PG_PORT=$(cat "$STATE/port")
  pick_port PG_PORT 15432
  mkdir -p "$STATE/data" "$STATE/sock"
  echo "$PG_PORT" >"$STATE/port"
  [ "$(id -u)" != 0 ] || chown postgres: "$STATE" "$STATE/data" "$STATE/sock"
  if [ ! -s "$STATE/data/PG_VERSION" ]; then
    echo postgres-pass >"$STATE/pw"; [ "$(id -u)" != 0 ] || chown postgres: "$STATE/pw"
    (cd "$STATE" && as_user "$U" initdb -D "$STATE/data" -U postgres -E UTF8 --locale=C.UTF-8 --auth-local=trust \
      --auth-host=scram-sha-256 --pwfile="$STATE/pw") >"$LOG/initdb.log" 2>&1 || { tail -5 "$LOG/initdb.log" >&2; die initdb; }
    rm -f "$STATE/pw"
  fi
  local listen=127.0.0.1 hba='host all all samenet scram-sha-256'
  if [ -n "${PG_LISTEN:-}" ]; then
    listen+=,$PG_LISTEN
    grep -qxF "$hba" "$STATE/data/pg_hba.conf" || echo "$hba" >>"$STATE/data/pg_hba.conf"
  fi
  local fs=(-c fsync=off -c full_page_writes=off)
  [ -z "${PG_DURABLE:-}" ] || fs=()
  (cd "$STATE" && spawn -u "$U" postgres postgres -D "$STATE/data" -p "$PG_PORT" -c listen_addresses="$listen" \
    -c unix_socket_directories="$STATE/sock" -c max_connections="${PG_MAX_CONNECTIONS:-200}" -c shared_buffers=64MB \
    -c log_min_duration_statement=500 -c logging_collector=off "${fs[@]}")
  local i; for i in $(seq 300); do
    pg_isready -q -h "$STATE/sock" -p "$PG_PORT" && break
    alive postgres || { tail -20 "$LOG/postgres.log" >&2; die "postgres ended while starting"; }; sleep 0.1
  done
  psql -q -h "$STATE/sock" -p "$PG_PORT" -U postgres postgres >"$LOG/setup.log" 2>&1 <<'S' || die "setup, see $LOG/setup.log"
\set ON_ERROR_STOP 1
select not exists (select from pg_roles where rolname='nearsight') as fresh \gset
\if :fresh
create role nearsight login createdb password 'nearsight-pass';
create database nearsight owner nearsight;
\endif
S
}

svc_env() {
  cat <<C
PGHOST=127.0.0.1
PGPORT=$PG_PORT
PGUSER=nearsight
PGPASSWORD=nearsight-pass
PGDATABASE=nearsight
POSTGRES_DSN=postgres://nearsight:nearsight-pass@127.0.0.1:$PG_PORT/nearsight?sslmode=disable
POSTGRES_ADMIN_DSN=postgres://postgres:postgres-pass@127.0.0.1:$PG_PORT/postgres?sslmode=disable
C
}

crash() {
  local pid start children i
  alive postgres || die "not running"
  read -r pid start <"$RUN/postgres.pid"
  kill -STOP "$pid" # so that it has no more children than these
  children=$(cat "/proc/$pid/task/$pid/children")
  kill -KILL "$pid" $children
  for i in $(seq 100); do
    for pid in $pid $children; do [ ! -e "/proc/$pid" ] || [ "$(proc_start "$pid")" = zombie ] || { sleep 0.1; continue 2; }; done
    rm -f "$STATE/data/postmaster.pid" "$STATE"/sock/.s.* # a dead process that nobody waits for would pass for a server
    say "postgres: killed"; return 0
  done
  die "processes of postgres do not die"
}

if [ "${1:-}" = crash ]; then crash; else svc_main "$@"; fi
