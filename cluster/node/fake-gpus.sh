#!/bin/bash
# Keeps nvidia.com/gpu in this node's capacity, so that pods which request GPUs are scheduled and queued
# for real. A restarted kubelet may take the resource away; the watch sees it and puts it back.
set -u
count=$1
kube=(kubectl --kubeconfig /etc/kubernetes/kubelet.conf)
server=$("${kube[@]}" config view -o jsonpath='{.clusters[0].cluster.server}')
identity=/var/lib/kubelet/pki/kubelet-client-current.pem

# Not `kubectl patch --subresource=status`: it reads nodes/status first, which a node may not.
put_back() {
  curl -fsS --output /dev/null --cacert /etc/kubernetes/pki/ca.crt --cert "$identity" --key "$identity" \
    --request PATCH --header 'Content-Type: application/json-patch+json' \
    --data "[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$count\"}]" \
    "$server/api/v1/nodes/$(hostname)/status"
}

"${kube[@]}" get node "$(hostname)" --watch -o jsonpath='{.status.capacity.nvidia\.com/gpu}{"\n"}' |
  while read -r now; do
    [ "$now" = "$count" ] || put_back
  done
# The watch ended (the API server may have restarted): systemd starts it again.
exit 1
