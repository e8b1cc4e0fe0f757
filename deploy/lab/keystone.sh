#!/bin/bash
# A real OpenStack Keystone (Debian's), sqlite, Fernet tokens, under uwsgi.
#   keystone.sh install|start|status|stop|purge
#   keystone.sh image-url URL      points the catalog's image endpoints at another server while it runs
#   keystone.sh service-url TYPE URL   adds (or moves) the endpoints of any other service type
#   keystone.sh token USER         prints a token of one of the users below
#   keystone.sh expired-token USER prints one that was valid until a minute ago
# Users (password = name + "-pass"): admin (admin in project admin, and on the system), alice (member in demo),
#   carol (reader in demo), bob (member in other), glance and swift (admin in project service).
# Environment (all optional): KEYSTONE_STATE, KEYSTONE_PORT (default 15000 or the next free one),
#   KEYSTONE_IMAGE_URL (default http://127.0.0.1:9292), KEYSTONE_OBJECT_URL (adds an object-store endpoint),
#   KEYSTONE_TOKEN_EXPIRATION (seconds, default 3600), KEYSTONE_PROCESSES (default 1: sqlite
#   answers "database is locked" when two processes write)
cd "$(dirname "$0")" && . ./lib.sh
svc_init keystone "${KEYSTONE_STATE:-}"

svc_install() { apt_need python3-keystone python3-memcache memcached uwsgi-core uwsgi-plugin-python3 curl; }

svc_start() {
  local U; U=$(id -un); [ "$(id -u)" = 0 ] && U=nobody
  local G; G=$(id -gn "$U")
  pick_port KEYSTONE_PORT 15000
  local M=$((KEYSTONE_PORT + 1)); while ! port_free $M; do M=$((M + 1)); done
  mkdir -p "$STATE/etc"
  cat >"$STATE/etc/keystone.conf" <<C
[DEFAULT]
use_stderr = true
log_file =
default_log_levels = keystone=INFO,sqlalchemy=WARN,alembic=WARN,stevedore=WARN
[database]
connection = sqlite:///$STATE/keystone.db?timeout=60
sqlite_synchronous = false
[token]
provider = fernet
expiration = ${KEYSTONE_TOKEN_EXPIRATION:-3600}
[fernet_tokens]
key_repository = $STATE/etc/fernet-keys
[fernet_receipts]
key_repository = $STATE/etc/receipt-keys
[credential]
key_repository = $STATE/etc/credential-keys
[identity]
password_hash_rounds = 4
[cache]
# Without a cache one token validation costs about 500 SQL queries, half a second of CPU.
enabled = true
backend = dogpile.cache.memcached
memcache_servers = 127.0.0.1:$M
expiration_time = 600
C
  [ "$(id -u)" != 0 ] || chown -R "$U:$G" "$STATE"
  local m=(as_user "$U" keystone-manage --config-file "$STATE/etc/keystone.conf")
  if [ ! -s "$STATE/ready" ]; then
    rm -rf "$STATE/keystone.db" "$STATE"/etc/*-keys
    # WAL: readers and writers of the worker processes do not lock each other out.
    as_user "$U" /usr/bin/python3 -c 'import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute("pragma journal_mode=wal")' "$STATE/keystone.db"
    # Keys as keystone-manage would make them (two per repository), without starting it three times more.
    as_user "$U" /usr/bin/python3 - "$STATE/etc" <<'P' || die "keys"
import base64, os, sys
for d in ('fernet-keys', 'receipt-keys', 'credential-keys'):
    d = os.path.join(sys.argv[1], d); os.makedirs(d, 0o700)
    for n in ('0', '1'):
        with open(os.path.join(d, n), 'w') as f: f.write(base64.urlsafe_b64encode(os.urandom(32)).decode())
P
    { "${m[@]}" db_sync &&
      "${m[@]}" bootstrap --bootstrap-username admin --bootstrap-password admin-pass --bootstrap-project-name admin \
        --bootstrap-role-name admin --bootstrap-service-name keystone --bootstrap-region-id RegionOne \
        --bootstrap-public-url "http://127.0.0.1:$KEYSTONE_PORT/v3" --bootstrap-internal-url "http://127.0.0.1:$KEYSTONE_PORT/v3" \
        --bootstrap-admin-url "http://127.0.0.1:$KEYSTONE_PORT/v3"
    } >"$LOG/manage.log" 2>&1 || { tail -20 "$LOG/manage.log" >&2; die "keystone-manage"; }
  fi
  spawn -u "$U" memcached memcached -l 127.0.0.1 -p "$M" -U 0 -m 16
  wait_port "$M" 20 memcached
  OS_KEYSTONE_CONFIG_DIR="$STATE/etc" OS_KEYSTONE_CONFIG_FILES=keystone.conf \
    spawn -u "$U" keystone uwsgi --plugin python3 --http-socket "127.0.0.1:$KEYSTONE_PORT" --wsgi-file /usr/bin/keystone-wsgi-public \
    --master --die-on-term --processes "${KEYSTONE_PROCESSES:-1}" --threads 1 --need-app --thunder-lock --add-header "Connection: close" \
    --buffer-size 65535 --disable-logging
  wait_http "http://127.0.0.1:$KEYSTONE_PORT/v3" 60 keystone
  if [ -s "$STATE/ready" ]; then setup image; else setup users; fi || die "creating users and endpoints"
  echo done >"$STATE/ready"
}

# expired TOKEN: the same token with an end that has passed, sealed with the server's own key.
expired() {
  /usr/bin/python3 - "$STATE/etc/fernet-keys" "$1" <<'P'
import os, sys, time, msgpack
from cryptography.fernet import Fernet
keys, token = sys.argv[1:3]
with open(os.path.join(keys, max(os.listdir(keys), key=int))) as f: seal = Fernet(f.read())
parts = msgpack.unpackb(seal.decrypt(token + '=' * (-len(token) % 4)))
parts[4] = time.time() - 60 # of a token for a project: version, user, methods, project, end, audit ids
print(seal.encrypt(msgpack.packb(parts)).decode().rstrip('='))
P
}

setup() { # users | image | service TYPE URL | token USER
  /usr/bin/python3 - "http://127.0.0.1:$KEYSTONE_PORT/v3" "${KEYSTONE_IMAGE_URL:-http://127.0.0.1:9292}" "${KEYSTONE_OBJECT_URL:-}" "$@" <<'P'
import json, sys, time, urllib.request, urllib.error
base, image, objects, what = sys.argv[1:5]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
token = None
def call(method, path, body=None):
    r = urllib.request.Request(base + path, method=method, data=None if body is None else json.dumps(body).encode(),
                               headers={'Content-Type': 'application/json'})
    if token: r.add_header('X-Auth-Token', token)
    for left in (4, 3, 2, 1, 0):
        try:
            with opener.open(r, timeout=60) as f:
                d = f.read(); return (json.loads(d) if d else {}), f.headers
        except urllib.error.HTTPError as e:
            if e.code < 500 or not left: raise SystemExit('%s %s: %s %s' % (method, path, e.code, e.read().decode()[:300]))
        except OSError:
            if not left: raise
        time.sleep(1)
def login(user, project):
    return call('POST', '/auth/tokens', {'auth': {
        'identity': {'methods': ['password'], 'password': {'user': {'name': user, 'password': user + '-pass', 'domain': {'id': 'default'}}}},
        'scope': {'project': {'name': project, 'domain': {'id': 'default'}}}}})[1]['X-Subject-Token']
homes = {'admin': 'admin', 'alice': 'demo', 'carol': 'demo', 'bob': 'other', 'glance': 'service', 'swift': 'service'}
if what == 'token':
    print(login(sys.argv[5], homes[sys.argv[5]])); sys.exit()
token = login('admin', 'admin')
def ensure(kind, name, **more):
    got = call('GET', '/%ss?name=%s' % (kind, name))[0][kind + 's']
    return (got[0] if got else call('POST', '/%ss' % kind, {kind: dict(more, name=name)})[0][kind])['id']
if what == 'users':
    # what the identity service calls "service" is also the project of the service users
    roles = {r: ensure('role', r) for r in ('admin', 'member', 'reader', 'service')}
    projects = {p: ensure('project', p, domain_id='default') for p in ('admin', 'demo', 'other', 'service')}
    for user, project, role in (('alice', 'demo', 'member'), ('carol', 'demo', 'reader'), ('bob', 'other', 'member'),
                                ('glance', 'service', 'admin'), ('glance', 'service', 'service'), ('swift', 'service', 'admin'),
                                ('admin', 'demo', 'admin')):
        uid = ensure('user', user, domain_id='default', password=user + '-pass')
        call('PUT', '/projects/%s/users/%s/roles/%s' % (projects[project], uid, roles[role]))
def endpoint(name, typ, url):
    got = call('GET', '/services?type=' + typ)[0]['services']
    sid = got[0]['id'] if got else call('POST', '/services', {'service': {'name': name, 'type': typ}})[0]['service']['id']
    have = {e['interface']: e for e in call('GET', '/endpoints?service_id=' + sid)[0]['endpoints']}
    for i in ('public', 'internal', 'admin'):
        if i not in have:
            call('POST', '/endpoints', {'endpoint': {'service_id': sid, 'interface': i, 'region_id': 'RegionOne', 'url': url}})
        elif have[i]['url'] != url:
            call('PATCH', '/endpoints/' + have[i]['id'], {'endpoint': {'url': url}})
if what == 'service':
    endpoint(sys.argv[5], sys.argv[5], sys.argv[6]); sys.exit()
endpoint('glance', 'image', image)
endpoint('keystone', 'identity', base)
if objects: endpoint('swift', 'object-store', objects)
P
}

svc_env() {
  cat <<C
KEYSTONE_SCRIPT=$PWD/keystone.sh
KEYSTONE_STATE=$STATE
KEYSTONE_URL=http://127.0.0.1:$KEYSTONE_PORT/v3
KEYSTONE_MEMBER_USERNAME=alice
KEYSTONE_MEMBER_PASSWORD=alice-pass
KEYSTONE_MEMBER_PROJECT=demo
KEYSTONE_ADMIN_USERNAME=admin
KEYSTONE_ADMIN_PASSWORD=admin-pass
KEYSTONE_ADMIN_PROJECT=admin
KEYSTONE_SERVICE_USERNAME=glance
KEYSTONE_SERVICE_PASSWORD=glance-pass
KEYSTONE_SERVICE_PROJECT=service
KEYSTONE_OTHER_USERNAME=bob
KEYSTONE_OTHER_PASSWORD=bob-pass
KEYSTONE_OTHER_PROJECT=other
KEYSTONE_READER_USERNAME=carol
KEYSTONE_READER_PASSWORD=carol-pass
KEYSTONE_READER_PROJECT=demo
KEYSTONE_IMAGE_URL=${KEYSTONE_IMAGE_URL:-http://127.0.0.1:9292}
C
}

case "${1:-}" in
  image-url | service-url | token | expired-token)
    svc_running || die "keystone is not running"
    u=$(sed -n 's/^KEYSTONE_URL=//p' "$ENVF"); KEYSTONE_PORT=${u##*:}; KEYSTONE_PORT=${KEYSTONE_PORT%/v3}
    if [ "$1" = token ]; then setup token "${2:?user}"
    elif [ "$1" = expired-token ]; then t=$(setup token "${2:?user}") && expired "$t"
    elif [ "$1" = service-url ]; then setup service "${2:?type}" "${3:?url}"; else
      KEYSTONE_IMAGE_URL=${2:?url}; setup image && sed -i "s|^KEYSTONE_IMAGE_URL=.*|KEYSTONE_IMAGE_URL=$2|" "$ENVF"
    fi ;;
  *) svc_main "$@" ;;
esac
