#!/bin/bash
# Writes the node's pod network configuration; the kubelet reports Ready once it is there.
# It stands in for kind's own network plug-in, which is an image that can't be built from Go modules.
set -u

until cidr=$(kubectl --kubeconfig /etc/kubernetes/kubelet.conf get node "$(hostname)" -o jsonpath='{.spec.podCIDR}' 2>/dev/null) &&
  [ -n "$cidr" ]; do
  sleep 1
done

# Ready has to mean that services work: a pod that starts before kube-proxy's
# rules exist gets its first connection stuck for up to half a minute.
for _ in $(seq 120); do
  curl -fsS -m 1 http://127.0.0.1:10256/healthz >/dev/null 2>&1 && break
  sleep 0.5
done

pods=10.244.0.0/16
masquerade=(POSTROUTING -s "$pods" ! -d "$pods" -j MASQUERADE)
iptables -w -t nat -C "${masquerade[@]}" 2>/dev/null || iptables -w -t nat -A "${masquerade[@]}"

cat >/etc/cni/net.d/.fresh <<CONF
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$cidr"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CONF
# Renamed, so that containerd never reads half a file.
mv /etc/cni/net.d/.fresh /etc/cni/net.d/10-pods.conflist
