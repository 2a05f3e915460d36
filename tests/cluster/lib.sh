# shellcheck shell=bash disable=SC2034  # the scripts that source this use the variables
# Shared by the scripts of this folder: names, addresses, start and stop of components.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
nodes=(1 2)

say() { echo "cluster: $*" >&2; }
die() { say "$*"; exit 1; }

# use_state STATE_DIR [PORT]: sets the names and addresses of a cluster. They derive from its port, so
# that clusters with different ports do not collide.
use_state() {
  state=$(readlink -m "$1")
  port=${2:-$(cat "$state/port" 2>/dev/null || echo "${CLUSTER_PORT:-20443}")}
  bin=$state/bin # a link to the folder printed by assets
  slot=$((port % 256))
  bridge=imgkube$slot
  gateway=10.201.$slot.1 # the address of the machine for its nodes
  service_ip=10.96.0.1   # the address of kubernetes.default for pods
}

# choose_port FIRST COUNT: prints CLUSTER_PORT, or else the first of twenty blocks of COUNT ports that is free together with
# its network. A killed run leaves its network behind.
choose_port() {
  local port owner
  for ((port = ${CLUSTER_PORT:-$1}; ; port += $2)); do
    use_state "$state" "$port"
    if owner=$(cat "/sys/class/net/$bridge/ifalias" 2>/dev/null); then
      say "the cluster of ${owner:-another program} uses the network $bridge; fix: $here/down ${owner:-ITS_STATE_DIR}"
    elif [ -n "$(ss -Htln "sport >= :$port and sport < :$((port + $2))")" ]; then
      say "one of the ports $port to $((port + $2 - 1)) is in use"
    else
      echo "$port"
      return
    fi
    [ -z "${CLUSTER_PORT:-}" ] || die "fix: set CLUSTER_PORT to another port"
    [ "$port" -lt $(($1 + 19 * $2)) ] || die "no free ports; fix: set CLUSTER_PORT"
  done
}

node_ip() { echo "10.201.$slot.$((10 + $1))"; }
pod_net() { echo "10.$((201 + $1)).$slot.0/24"; }

# start NAME COMMAND...: runs a component in the background, in its own process group. One argument of
# the command must contain "$state/": see running.
start() {
  local name=$1
  shift
  setsid "$@" >>"$state/logs/$name.log" 2>&1 </dev/null &
  echo $! >"$state/pids/$name"
  disown # otherwise this shell would report its end
}

# running NAME: prints the pid of a component while it runs. It compares the command line because
# another program may have the pid now.
running() {
  local pid
  pid=$(cat "$state/pids/$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$state/" && echo "$pid"
}

# finish NAME SIGNAL: stops a component and waits for its end; sends SIGKILL after 10 s.
finish() {
  local pid tries=0
  if pid=$(running "$1"); then
    kill "-$2" -- "-$pid" 2>/dev/null || true
    while running "$1" >/dev/null; do
      sleep 0.1
      [ $((++tries)) -lt 100 ] || kill -KILL -- "-$pid" 2>/dev/null || true
      [ "$tries" -lt 200 ] || die "$1 (pid $pid) does not end"
    done
  fi
  rm -f "$state/pids/$1"
}
