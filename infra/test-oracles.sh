#!/usr/bin/env bash
# Other implementations for the tests of distances, beside the environment and not in it: installed there, their torchvision
# breaks a CPU build of torch, and without torchvision torch-fidelity breaks torchmetrics.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/oracles \
    clean-fid==0.1.35 pytorch-fid==0.3.0 torch-fidelity==0.4.0
