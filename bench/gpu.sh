#!/usr/bin/env bash
# Everything that a GPU is needed for, the most important first: are the kernels right, how fast is
# the join against its peers and the device's ceilings, which tiles are fastest.
#
#   OUT=results bench/gpu.sh                   from the root of the checkout
#   OUT=results PYTHON=python3.12 bench/gpu.sh
#
# Every step has a time limit and writes its results as it goes, so that a run that is cut short
# leaves what it has; run again with the same OUT, it does only what is missing. No network is used.
# Exit code 1 where a step failed or ran out of time.

set -u -o pipefail
cd "$(dirname "$0")/.."
: "${OUT:?OUT is not set; it has to name the folder for the results: OUT=results bench/gpu.sh}"
PYTHON=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=0

# step NAME SECONDS COMMAND...: the output goes to NAME.log, the outcome to steps.csv.
step() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  if grep -qs "^$name,0," "$OUT/steps.csv"; then
    echo "$name: done before"
    return
  fi
  echo "$name: at most $limit s: $*"
  timeout "$limit" "$@" 2>&1 | tee -a "$OUT/$name.log" || code=$?
  [ -s "$OUT/steps.csv" ] || echo "step,exit_code,elapsed_s" > "$OUT/steps.csv"
  echo "$name,$code,$((SECONDS - start))" >> "$OUT/steps.csv"
  [ "$code" -eq 0 ] || failed=1
}

step device 30 "$PYTHON" -c '
import sys, torch, triton
assert torch.cuda.is_available(), "torch sees no CUDA device"
print(sys.version, torch.__version__, triton.__version__, torch.cuda.get_device_name())
'
# Without conftest.py the kernels' tests need no more than torch, triton, pytest and hypothesis.
step test_kernels 240 "$PYTHON" -m pytest --noconftest -m gpu -q tests/test_dual_threshold.py
step sweep_shipped 60 "$PYTHON" -m bench.sweep_tiles --out "$OUT/shipped_tiles.csv" --shipped
step join_gpu 240 "$PYTHON" -m bench.join_gpu --out "$OUT/join_gpu.csv"
step test_encoders 120 "$PYTHON" -m pytest -m gpu --no-skips -q tests/test_encoders.py
step sweep_tiles 240 "$PYTHON" -m bench.sweep_tiles --out "$OUT/sweep_tiles.csv"
exit "$failed"
