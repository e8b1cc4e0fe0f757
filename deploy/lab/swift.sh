#!/bin/bash
# A real OpenStack Swift from Debian's packages, on loopback, for the tests of
# origin/swift: one replica, logins by tempauth, and the S3 API in the same proxy.
#   swift.sh install|start|status|stop|purge
# start and status print KEY=VALUE lines for the environment of the tests.
# Environment, all optional:
#   SWIFT_STATE          where it keeps all; the file system must have user xattrs
#   SWIFT_PORT           of the proxy (18080, or the next free one)
#   SWIFT_WORKERS        proxy worker processes (0: one process that serves)
#   SWIFT_MAX_FILE_SIZE  bytes of a single object (Swift's own: 5 GiB + 2); a small
#                        one, such as 2097152, forces segments
#   SWIFT_TOKEN_LIFE     seconds (a day); a short one makes tokens expire in
#                        mid-stream
cd "$(dirname "$0")" && . ./lib.sh
svc_init swift "${SWIFT_STATE:-}"
svc_install() {
  apt_need swift-proxy swift-account swift-container swift-object memcached curl
}

backend_conf() { # TYPE PORT
  cat >"$STATE/etc/$1.conf" <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $2
workers = 0
user = $U
swift_dir = $STATE/etc
devices = $STATE/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_name = $1
log_level = INFO
log_address = $STATE/no-syslog
[pipeline:main]
pipeline = recon $1-server
[app:$1-server]
use = egg:swift#$1
$3
[filter:recon]
use = egg:swift#recon
recon_cache_path = $STATE/cache
[$1-replicator]
[$1-updater]
C
}

ring() { # TYPE PORT
  (cd "$STATE/etc" && rm -f "$1.builder" "$1.ring.gz" && {
    swift-ring-builder "$1.builder" create 4 1 0
    swift-ring-builder "$1.builder" add "r1z1-127.0.0.1:$2/d1" 1
    swift-ring-builder "$1.builder" rebalance
  }) >>"$LOG/rings.log" 2>&1
  [ -s "$STATE/etc/$1.ring.gz" ] || { tail -5 "$LOG/rings.log" >&2; die "ring $1"; }
}

run_swift() { # NAME PROGRAM CONF
  spawn -u "$U" "$1" /usr/bin/python3 "$STATE/launch.py" "$STATE/etc" "/usr/bin/$2" "$STATE/etc/$3.conf" -v
}

svc_start() {
  export PATH=/usr/sbin:/usr/bin:/sbin:/bin
  U=$(id -un); [ "$(id -u)" = 0 ] && U=swift
  pick_port SWIFT_PORT 18080
  local base=$((SWIFT_PORT + 1)) P=()
  while [ ${#P[@]} -lt 4 ]; do port_free $base && P+=($base); base=$((base + 1)); done
  mkdir -p "$STATE/etc" "$STATE/devices/d1" "$STATE/cache"
  # Swift reads /etc/swift/swift.conf at import time; this launcher points it at our own file instead.
  cat >"$STATE/launch.py" <<'P'
import runpy, sys
from swift.common import utils
utils.HASH_PATH_SUFFIX = utils.HASH_PATH_PREFIX = b''
utils.SWIFT_CONF_FILE = sys.argv[1] + '/swift.conf'
utils.validate_configuration()
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name='__main__')
P
  /usr/bin/python3 - "$STATE/devices/d1" <<'P' || die "the file system of $STATE has no user xattrs: set SWIFT_STATE to a directory on ext4 or xfs"
import os, sys
p = os.path.join(sys.argv[1], '.probe'); open(p, 'w').close()
os.setxattr(p, 'user.swift.metadata', b'x' * 3000); os.unlink(p)
P
  cat >"$STATE/etc/swift.conf" <<C
[swift-hash]
swift_hash_path_suffix = nearsight
swift_hash_path_prefix = nearsight
[storage-policy:0]
name = Policy-0
default = yes
[swift-constraints]
max_file_size = ${SWIFT_MAX_FILE_SIZE:-5368709122}
C
  backend_conf account "${P[0]}" ""; backend_conf container "${P[1]}" ""
  backend_conf object "${P[2]}" "allowed_headers = Content-Disposition, Content-Encoding, X-Delete-At, X-Object-Manifest, X-Static-Large-Object, Cache-Control, Content-Language, Expires, X-Robots-Tag"
  cat >"$STATE/etc/proxy.conf" <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $SWIFT_PORT
workers = ${SWIFT_WORKERS:-0}
user = $U
swift_dir = $STATE/etc
log_name = proxy
log_level = INFO
log_address = $STATE/no-syslog
expose_info = true
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk tempurl ratelimit s3api tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:${P[3]}
memcache_max_connections = 16
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:tempurl]
use = egg:swift#tempurl
[filter:ratelimit]
use = egg:swift#ratelimit
account_ratelimit = 0
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
check_bucket_owner = false
allow_multipart_uploads = true
max_upload_part_num = 10000
force_swift_request_proxy_log = true
[filter:tempauth]
use = egg:swift#tempauth
reseller_prefix = AUTH
token_life = ${SWIFT_TOKEN_LIFE:-86400}
user_test_tester = testing .admin
user_test_reader = reading
user_test2_tester2 = testing2 .admin
user_admin_admin = admin .admin .reseller_admin
[filter:copy]
use = egg:swift#copy
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:account-quotas]
use = egg:swift#account_quotas
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
C
  ring account "${P[0]}"; ring container "${P[1]}"; ring object "${P[2]}"
  if [ "$(id -u)" = 0 ]; then chown -R swift: "$STATE"; fi
  spawn -u "$U" memcached memcached -l 127.0.0.1 -p "${P[3]}" -U 0 -m 32
  local t
  for t in account container object proxy; do run_swift "$t" "swift-$t-server" "$t"; done
  for t in 0 1 2 3; do wait_port "${P[$t]}" 40; done
  wait_http "http://127.0.0.1:$SWIFT_PORT/healthcheck" 40 proxy
}

svc_env() {
  local u="http://127.0.0.1:$SWIFT_PORT"
  cat <<C
SWIFT_URL=$u
SWIFT_AUTH_URL=$u/auth/v1.0
SWIFT_USER=test:tester
SWIFT_KEY=testing
SWIFT_STORAGE_URL=$u/v1/AUTH_test
SWIFT_USER2=test2:tester2
SWIFT_KEY2=testing2
SWIFT_S3_ENDPOINT=$u
SWIFT_S3_REGION=us-east-1
SWIFT_S3_ACCESS_KEY=test:tester
SWIFT_S3_SECRET_KEY=testing
C
}

svc_main "$@"
