#!/usr/bin/env bash
# Prometheus and promtool for the tests of the alerts, from the system's own packages; does nothing where they are.
set -euo pipefail
command -v promtool >/dev/null && command -v prometheus >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "install prometheus with this system's own package manager" >&2; exit 1; }
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends prometheus
