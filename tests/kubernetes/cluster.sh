# Shared by kube-up, kube-down, kube-node. Sourced, never run. The settings of a cluster are in $STATE/settings:
#   ID      number of the cluster on this machine: names of bridge and cgroups, network 10.88.ID.0/24
#   API     port of the API server on loopback; the controllers have the next two
#   ETCD    port of etcd on loopback; its peers' port is the next one
#   NODES   number of nodes: node1, node2, ...
#   BIN     folder of the programs that kube-build made
. "$HERE/../slurm/servers.sh"

ip_of() { echo "10.88.$ID.$1"; }
bridge() { echo "nevakube$ID"; }
group() { echo "nevakube$ID-$1"; }                                           # NODE NUMBER -> its cgroup
kubectl() { "$BIN/kubectl" --kubeconfig "$STATE/admin.kubeconfig" --request-timeout=10s "$@"; }
ctr_of() { local n=$1; shift; ctr -a "$STATE/node$n/c.sock" -n k8s.io "$@"; }

until_ok() { # SECONDS WHAT COMMAND...: repeats COMMAND until it succeeds
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "$what: not there after the wait; logs are in $STATE/log"; sleep 0.1; done
}
server() { # NAME COMMAND...: starts a server unless it runs
  local name=$1; shift
  pid_live "$STATE/run/$name.pid" >/dev/null && return 0
  (cd "$STATE" && spawn "$STATE/run/$name.pid" "$STATE/log/$name.log" "$@")
}

start_etcd() {
  local at=http://127.0.0.1:$ETCD peer=http://127.0.0.1:$((ETCD + 1))
  server etcd "$BIN/etcd" --data-dir "$STATE/etcd" --listen-client-urls "$at" --advertise-client-urls "$at" --listen-peer-urls "$peer" \
    --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" --unsafe-no-fsync --log-level warn
}
start_apiserver() {
  server kube-apiserver "$BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD" --bind-address=127.0.0.1 --secure-port="$API" \
    --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/24 --authorization-mode=Node,RBAC --allow-privileged \
    --enable-admission-plugins=NodeRestriction --client-ca-file=pki/ca.crt --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
    --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key --kubelet-certificate-authority=pki/ca.crt \
    --kubelet-preferred-address-types=InternalIP,Hostname \
    --default-not-ready-toleration-seconds=5 --default-unreachable-toleration-seconds=5
  until_ok 90 "the API server" kubectl get --raw /readyz
}
start_controllers() {
  local name
  server kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig=kcm.kubeconfig --authentication-kubeconfig=kcm.kubeconfig \
    --authorization-kubeconfig=kcm.kubeconfig --bind-address=127.0.0.1 --secure-port=$((API + 1)) --leader-elect=false \
    --use-service-account-credentials --root-ca-file=pki/ca.crt --service-account-private-key-file=pki/sa.key \
    --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --node-monitor-grace-period=12s
  server kube-scheduler "$BIN/kube-scheduler" --kubeconfig=sched.kubeconfig --authentication-kubeconfig=sched.kubeconfig \
    --authorization-kubeconfig=sched.kubeconfig --bind-address=127.0.0.1 --secure-port=$((API + 2)) --leader-elect=false
}
start_dns() {
  server coredns "$BIN/coredns" -conf "$STATE/Corefile"
}
start_containerd() { # NODE NUMBER
  server "containerd$1" containerd -c "$STATE/node$1/containerd.toml"
  until_ok 60 "containerd of node$1" ctr_of "$1" version
}
start_kubelet() { # NODE NUMBER
  local dir=$STATE/node$1
  server "kubelet$1" "$BIN/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$STATE/kubelet$1.kubeconfig" --root-dir="$dir/kubelet" \
    --cert-dir="$dir/kubelet/pki" --hostname-override="node$1" --node-ip="$(ip_of "$1")"
}
kill_containers() { # NODE NUMBER: kills and removes all containers of a node
  local c
  pid_live "$STATE/run/containerd$1.pid" >/dev/null || return 0
  for c in $(ctr_of "$1" task ls -q 2>/dev/null); do ctr_of "$1" task kill -s KILL "$c" 2>/dev/null; done
  sleep 0.3
  for c in $(ctr_of "$1" task ls -q 2>/dev/null); do ctr_of "$1" task rm -f "$c" >/dev/null 2>&1; done
  for c in $(ctr_of "$1" c ls -q 2>/dev/null); do ctr_of "$1" c rm "$c" >/dev/null 2>&1; done
}
make_groups() { # NODE NUMBER: cgroups of a node, on cgroup v1 and v2
  local root name; name=$(group "$1")
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    for root in cpuset cpu io memory pids hugetlb; do echo "+$root" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; done
    mkdir -p "/sys/fs/cgroup/$name"
    return 0
  fi
  for root in /sys/fs/cgroup/*/; do
    [ -f "$root/cgroup.procs" ] || continue
    case $root in */unified/) continue;; esac
    mkdir -p "$root/$name"
    if [ -f "$root/cpuset.cpus" ]; then
      cat "$root/cpuset.cpus" >"$root/$name/cpuset.cpus"
      cat "$root/cpuset.mems" >"$root/$name/cpuset.mems"
    fi
  done
}
remove_groups() { # NODE NUMBER
  local dir i
  for dir in /sys/fs/cgroup/"$(group "$1")" /sys/fs/cgroup/*/"$(group "$1")"; do
    for i in 1 2 3 4 5 6 7 8 9 10; do # the kernel takes a moment to empty them
      [ -d "$dir" ] || break
      find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
      [ -d "$dir" ] && sleep 0.1
    done
  done
}
