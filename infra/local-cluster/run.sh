#!/usr/bin/env bash
# A head and two worker nodes on this machine; on them prepare -> train -> eval -> promote -> serve, with one node killed.
#     infra/local-cluster/run.sh [OUT]
set -euo pipefail
# Nothing here leaves the machine.
export RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
exec python "$(dirname "$0")/run.py" "$@"
