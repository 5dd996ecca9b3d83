#!/usr/bin/env bash
# The rendered manifests of kuberay/overlays/cpu-demo on this machine, as they stand, their pods as namespaces: the jobs
# prepare, train and eval, then the service. As root, with iproute2, kubectl and redis-server.
#     infra/local-cluster/run_manifests.sh [OUT] [--only JOB ...] [--small]
set -euo pipefail
exec python "$(dirname "$0")/run_manifests.py" "$@"
