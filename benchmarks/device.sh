#!/usr/bin/env bash
# All that a GPU has to show, in under nine minutes, on a machine without network or shared folders:
#
#     benchmarks/device.sh OUT [--wheels FOLDER] [--checkpoint FOLDER] [--device cpu]
#         [--size small] [--parts "tests agreement served methods workflow"]
#
# from a checkout, with a python3 that has torch. FOLDER of wheels: what else it needs, made where
# there is a network by `pip download --only-binary :all: --no-deps -d FOLDER` of the packages of
# requirements.lock that the machine lacks (import errors name them). FOLDER of the checkpoint: a
# small dense one. OUT gets the output of every part, JSON, and all tables in table.md. The exit
# status is the number of parts that failed; one that takes too long is stopped and counts.
# --device cpu: the same at the smallest sizes, to try it. --size small: those on a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?OUT, a folder for what is found, is missing}
shift
wheels="" checkpoint="" device=cuda size=llama-2-7b layers=2 parts="tests agreement served methods workflow"
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2 ;;
    --checkpoint) checkpoint=$2 ;;
    --device) device=$2 ;;
    --size) size=$2 ;;
    --parts) parts=$2 ;;
    *) echo "$1 is not allowed; allowed: --wheels, --checkpoint, --device, --size, --parts" >&2
       exit 64 ;;
  esac
  shift 2
done
patience=1
if [ "$device" = cpu ]; then size=small layers=1 patience=6; fi  # a CPU may be slow, and busy
mkdir -p "$out"
out=$(realpath "$out")

python=$(command -v python3)
export PYTHONPATH=$PWD/src HF_HUB_OFFLINE=1
if [ -n "$wheels" ]; then # in a folder of their own: python3 may be of a virtual environment itself
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
    "$wheels"/*.whl || exit 65
  export PYTHONPATH=$site:$PYTHONPATH PATH=$site/bin:$PATH
fi

state() { # clocks and heat, before and after
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --format=csv \
    --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu
}
failed=0
part() { # NAME SECONDS COMMAND...: what it prints, and whether it was in time
  local name=$1 limit=$2
  shift 2
  case " $parts " in *" $name "*) ;; *) return ;; esac
  echo "== $name"
  timeout "$((patience * limit))" "$@" >"$out/$name.txt" 2>"$out/$name.log" || { failed=$((failed + 1)); tail -n 3 "$out/$name.log"; }
  tail -n 3 "$out/$name.txt"
}

state | tee "$out/device.txt"
gpu_tests=("$python" -m pytest -m gpu -n 0 -p no:cacheprovider)
part tests 90 "${gpu_tests[@]}" tests/gpu/test_gpu.py
if [ -n "$checkpoint" ]; then
  part agreement 40 "$python" benchmarks/agreement.py "$checkpoint" --device "$device"
fi
part served 120 "$python" benchmarks/served.py --size "$size" --device "$device" --json "$out/served.json"
part methods 190 "$python" benchmarks/gpu.py --size "$size" --layers "$layers" --within $((patience * 140)) \
  --device "$device" --json "$out/methods.json"
part workflow 100 "${gpu_tests[@]}" tests/gpu/test_workflow.py # jobs take seconds each to start
state | tee -a "$out/device.txt"
for each in device agreement served methods; do
  if [ -f "$out/$each.txt" ]; then printf '\n## %s\n\n' "$each"; cat "$out/$each.txt"; fi
done >"$out/table.md"
exit "$failed"
