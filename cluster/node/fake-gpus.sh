#!/bin/bash
# Keeps nvidia.com/gpu in this node's capacity, so that pods which request GPUs are scheduled and queued
# for real. A restarted kubelet may take the resource away; the watch sees it and puts it back.
set -u
count=$1
kube=(kubectl --kubeconfig /etc/kubernetes/kubelet.conf)

"${kube[@]}" get node "$(hostname)" --watch -o jsonpath='{.status.capacity.nvidia\.com/gpu}{"\n"}' |
  while read -r now; do
    [ "$now" = "$count" ] && continue
    "${kube[@]}" patch node "$(hostname)" --subresource=status --type=json \
      -p "[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$count\"}]"
  done
# The watch ended (the API server may have restarted): systemd starts it again.
exit 1
