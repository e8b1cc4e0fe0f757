#!/bin/bash
# versitygw, an S3 server over a plain directory, built from its released Go module.
#   s3.sh install|start|status|stop|purge
# Environment (all optional):
#   S3_STATE    state directory
#   S3_PORT     port (default 19000 or the next free one)
#   S3_BIN_DIR  where the built program is kept; keep it between runs, a build takes minutes
cd "$(dirname "$0")" && . ./lib.sh
svc_init s3 "${S3_STATE:-}"
MODULE=github.com/versity/versitygw/cmd/versitygw@v1.8.0
BIN="${S3_BIN_DIR:-$SVC_BASE/bin}"
BUCKET=nearsight ACCESS_KEY=nearsight SECRET_KEY=nearsight-secret
EMPTY_SHA256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

svc_install() {
  apt_need curl
  [ -x "$BIN/versitygw" ] && [ "$(cat "$BIN/versitygw.module" 2>/dev/null)" = "$MODULE" ] && return 0
  command -v go >/dev/null || die "no go command"
  say "building $MODULE (minutes, once)"
  mkdir -p "$BIN" && BIN=$(cd "$BIN" && pwd)
  # -trimpath would rebuild the standard library, so it is left out; -s -w makes the link quicker.
  (cd "$BIN" && GOBIN="$BIN" GOFLAGS= CGO_ENABLED=0 go install -ldflags='-s -w' "$MODULE") >"$BIN/versitygw.log" 2>&1 ||
    { tail -20 "$BIN/versitygw.log" >&2; die "go install failed"; }
  echo "$MODULE" >"$BIN/versitygw.module"
}

svc_start() {
  local U; U=$(id -un); [ "$(id -u)" = 0 ] && U=nobody
  pick_port S3_PORT 19000
  mkdir -p "$STATE/data" "$STATE/iam"
  [ "$(id -u)" != 0 ] || chown -R nobody: "$STATE"
  # A copy that the unprivileged user can reach, wherever the build directory is.
  cp -f "$BIN/versitygw" "$STATE/versitygw"
  export ROOT_ACCESS_KEY=$ACCESS_KEY ROOT_SECRET_KEY=$SECRET_KEY
  # Without --keep-alive every request is a connection of its own.
  spawn -u "$U" s3 "$STATE/versitygw" --port "127.0.0.1:$S3_PORT" --region us-east-1 --keep-alive --quiet \
    --health /health --iam-dir "$STATE/iam" --access-log "$LOG/access.log" posix "$STATE/data"
  wait_http "http://127.0.0.1:$S3_PORT/health" 30 s3
  make_bucket
}

# make_bucket makes the bucket, unless an earlier start did.
make_bucket() {
  local code
  # The key goes in by stdin: arguments can be read by everybody.
  code=$(printf 'user = "%s:%s"\n' "$ACCESS_KEY" "$SECRET_KEY" |
    curl -sS -K - --noproxy '*' --max-time 10 -o "$LOG/bucket.log" -w '%{http_code}' \
      --aws-sigv4 aws:amz:us-east-1:s3 -H "x-amz-content-sha256: $EMPTY_SHA256" -X PUT "http://127.0.0.1:$S3_PORT/$BUCKET")
  case "$code" in 200|409) ;; *) cat "$LOG/bucket.log" >&2; die "the bucket could not be made: status $code" ;; esac
}

svc_env() {
  cat <<C
S3_ENDPOINT=http://127.0.0.1:$S3_PORT
S3_REGION=us-east-1
S3_BUCKET=$BUCKET
S3_ACCESS_KEY=$ACCESS_KEY
S3_SECRET_KEY=$SECRET_KEY
S3_DATA_DIR=$STATE/data
C
}

svc_main "$@"
