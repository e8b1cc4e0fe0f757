#!/bin/bash
# A real Redis from Debian's package, on loopback, for the tests of registry/bus and
# for the lab: nothing on disk unless asked for.
#   redis.sh install|start|status|stop|purge
# start and status print KEY=VALUE lines for the environment of the tests.
# Environment, all optional:
#   REDIS_STATE       state directory
#   REDIS_PORT        port (16379, or the next free one)
#   REDIS_PASSWORD    of letters, digits, - and _; none by default
#   REDIS_APPENDONLY  yes keeps the data over a restart (no)
#   REDIS_ARGS        further options of redis-server, such as --bind
cd "$(dirname "$0")" && . ./lib.sh
svc_init redis "${REDIS_STATE:-}"
svc_install() { apt_need redis-server; }

svc_start() {
  local U; U=$(id -un); [ "$(id -u)" = 0 ] && U=redis
  case "${REDIS_PASSWORD:-}" in *[!A-Za-z0-9_-]*) die "REDIS_PASSWORD has other characters than letters, digits, - and _" ;; esac
  pick_port REDIS_PORT 16379
  mkdir -p "$STATE/data"
  # The password goes in by a file: arguments can be read by everybody.
  (umask 077 && printf '%s\n' "${REDIS_PASSWORD:+requirepass $REDIS_PASSWORD}" >"$STATE/redis.conf")
  [ "$(id -u)" != 0 ] || chown -R redis: "$STATE"
  # shellcheck disable=SC2086
  spawn -u "$U" redis redis-server "$STATE/redis.conf" --bind 127.0.0.1 --port "$REDIS_PORT" --dir "$STATE/data" \
    --daemonize no --save "" --appendonly "${REDIS_APPENDONLY:-no}" --protected-mode yes ${REDIS_ARGS:-}
  local i; for i in $(seq 200); do
    [ "$(REDISCLI_AUTH="${REDIS_PASSWORD:-}" redis-cli -h 127.0.0.1 -p "$REDIS_PORT" ping 2>/dev/null)" = PONG ] && return 0
    alive redis || { tail -20 "$LOG/redis.log" >&2; die "redis ended while starting"; }
    sleep 0.1
  done
  die "redis does not answer"
}

svc_env() {
  cat <<C
REDIS_ADDR=127.0.0.1:$REDIS_PORT
REDIS_URL=redis://${REDIS_PASSWORD:+:$REDIS_PASSWORD@}127.0.0.1:$REDIS_PORT/0
REDIS_PASSWORD=${REDIS_PASSWORD:-}
REDIS_SERVER=$(command -v redis-server)
C
}

svc_main "$@"
