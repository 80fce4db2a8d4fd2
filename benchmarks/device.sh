#!/usr/bin/env bash
# All that a GPU has to show, in under nine minutes, on a machine without network or shared folders:
#
#     benchmarks/device.sh OUT [--wheels FOLDER] [--checkpoint FOLDER] [--device cpu]
#
# from a checkout, with a python3 that has torch. FOLDER of wheels: what else it needs, made where
# there is a network by `pip download --only-binary :all: --no-deps -d FOLDER` of the packages of
# requirements.lock that the machine lacks (import errors name them). FOLDER of the checkpoint: a
# small dense one. OUT gets the output of every part, JSON, and all tables in table.md. The exit
# status is the number of parts that failed; one that takes too long is stopped and counts.
# --device cpu: the same at the smallest sizes, to try it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT, a folder for what is found, is missing}
shift
wheels="" checkpoint="" device=cuda size=llama-2-7b layers=2
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2 ;;
    --checkpoint) checkpoint=$2 ;;
    --device) device=$2 ;;
    *) echo "$1 is not allowed; allowed: --wheels, --checkpoint, --device" >&2; exit 64 ;;
  esac
  shift 2
done
patience=1
if [ "$device" = cpu ]; then size=small layers=1 patience=6; fi  # a CPU may be slow, and busy
mkdir -p "$out"
out=$(realpath "$out")

python=$(command -v python3)
if [ -n "$wheels" ]; then
  environment=$(mktemp -d)
  trap 'rm -rf "$environment"' EXIT
  "$python" -m venv --system-site-packages "$environment"
  python=$environment/bin/python
  "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl || exit 65
fi
export PYTHONPATH=$PWD/src HF_HUB_OFFLINE=1

state() { # clocks and heat, before and after
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --format=csv \
    --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu
}
failed=0
part() { # NAME SECONDS COMMAND...: what it prints, and whether it was in time
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout "$((patience * limit))" "$@" >"$out/$name.txt" 2>"$out/$name.log" || { failed=$((failed + 1)); tail -n 3 "$out/$name.log"; }
  tail -n 3 "$out/$name.txt"
}

state | tee "$out/device.txt"
part tests 120 "$python" -m pytest -m gpu -n 0 -p no:cacheprovider tests/gpu
if [ -n "$checkpoint" ]; then
  part agreement 60 "$python" benchmarks/agreement.py "$checkpoint" --device "$device"
fi
part served 120 "$python" benchmarks/served.py --size "$size" --device "$device" --json "$out/served.json"
part methods 230 "$python" benchmarks/gpu.py --size "$size" --layers "$layers" --device "$device" \
  --json "$out/methods.json"
state | tee -a "$out/device.txt"
for each in device agreement served methods; do
  if [ -f "$out/$each.txt" ]; then printf '\n## %s\n\n' "$each"; cat "$out/$each.txt"; fi
done >"$out/table.md"
exit "$failed"
