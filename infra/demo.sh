#!/usr/bin/env bash
# The demo: the commands a user would type, in a row. Everything it makes is in runs/demo.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

SECONDS=0
mkdir -p runs/demo/serve
rm -f runs/demo/serve/ready.json

run nigaoe toy portraits runs/demo/portraits --people 1200 --scenes 2
run nigaoe prepare configs/demo/train.yaml
run nigaoe train configs/demo/train.yaml
run nigaoe eval configs/demo/eval.yaml

printf '\n\033[1m$ nigaoe serve configs/demo/serve.yaml &\033[0m\n'
nigaoe serve configs/demo/serve.yaml &
server=$!
trap 'kill -TERM "$server" 2>/dev/null || true' EXIT
for _ in $(seq 180); do
  [ -s runs/demo/serve/ready.json ] && break
  kill -0 "$server" 2>/dev/null || { echo "nigaoe serve ended before it was ready" >&2; exit 1; }
  sleep 1
done
url=$(python -c 'import json; print(json.load(open("runs/demo/serve/ready.json"))["url"])')

run nigaoe toy portraits runs/demo/stranger --people 1 --scenes 1 --split heldout --seed 5
run curl --fail-with-body --silent --show-error "$url/v1/images/edits" \
  -F image=@runs/demo/stranger/00000_0.jpg \
  -F "prompt=an anime drawing of a person on a pink background" \
  -F base=toy/anime -F adapter=demo -F seed=7 -o runs/demo/serve/answer.json
python -c 'import base64, json; open("runs/demo/serve/answer.png", "wb").write(base64.b64decode(json.load(open("runs/demo/serve/answer.json"))["data"][0]["b64_json"]))'
echo "the server's answer is runs/demo/serve/answer.png"

printf '\n\033[1m$ kill %s\033[0m\n' "$server"
kill -TERM "$server"
wait "$server" || true
trap - EXIT

run nigaoe report show runs/demo/report.json
printf '\nThe demo took %d min %d s. Open runs/demo/report.html\n' $((SECONDS / 60)) $((SECONDS % 60))
