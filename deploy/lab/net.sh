# The network of the lab: a bridge on this machine, and a namespace for each server. Sourced.
NET=${LAB_NAME:-nslab}
LAB_NET=${LAB_NET:-10.90.0}

# address NAME
address() {
  case "$1" in
    postgres) echo "$LAB_NET.2" ;; redis) echo "$LAB_NET.3" ;;
    c1) echo "$LAB_NET.11" ;; c2) echo "$LAB_NET.12" ;;
    e1) echo "$LAB_NET.21" ;; e2) echo "$LAB_NET.22" ;; e3) echo "$LAB_NET.23" ;;
    *) die "there is no server $1" ;;
  esac
}
SERVERS="postgres redis c1 c2 e1 e2 e3"

# in_net NAME COMMAND...
in_net() { local n=$1; shift; ip netns exec "$NET-$n" "$@"; }

# net_ours refuses to touch the network of a lab with another state directory.
net_ours() {
  local owner; owner=$(cat "/sys/class/net/$NET/ifalias" 2>/dev/null)
  [ -z "$owner" ] || [ "$owner" = "$STATE" ] || [ ! -e "$owner" ] ||
    die "the network $NET is of the lab in $owner: take that down with LAB_STATE, or have another with LAB_NAME and LAB_NET"
}

net_there() {
  local n; for n in $SERVERS; do [ -e "/run/netns/$NET-$n" ] || return 1; done
}

# net_up makes what is missing.
net_up() {
  local n
  if [ ! -e "/sys/class/net/$NET" ]; then
    ip link add "$NET" type bridge && ip addr add "$LAB_NET.1/24" dev "$NET" || return 1
  fi
  ip link set "$NET" alias "$STATE" up || return 1
  for n in $SERVERS; do
    [ ! -e "/run/netns/$NET-$n" ] || continue
    ip netns add "$NET-$n" && ip link add "$NET-$n" type veth peer name eth0 netns "$NET-$n" &&
      ip link set "$NET-$n" master "$NET" up && ip -n "$NET-$n" addr add "$(address "$n")/24" dev eth0 &&
      ip -n "$NET-$n" link set eth0 up && ip -n "$NET-$n" link set lo up || return 1
  done
}

# net_down ends what runs in the namespaces, and removes them, also after a crash.
net_down() {
  local n pids i
  for n in $SERVERS; do
    [ -e "/run/netns/$NET-$n" ] || continue
    for i in $(seq 50); do
      pids=$(ip netns pids "$NET-$n" 2>/dev/null)
      [ -n "$pids" ] || break
      # shellcheck disable=SC2086
      kill -KILL $pids 2>/dev/null
      sleep 0.1
    done
    ip netns del "$NET-$n" || return 1
  done
  for n in $SERVERS; do ip link del "$NET-$n" 2>/dev/null; done # it may be just going
  [ ! -e "/sys/class/net/$NET" ] || ip link del "$NET"
}
