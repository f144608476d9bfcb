#!/usr/bin/env bash
# Everything that a GPU is needed for, the most important first: are the kernels right, how fast are
# the join and the encoders against their peers and the device's ceilings, which tiles are fastest.
#
#   OUT=results bench/gpu.sh                   from the root of the checkout
#   OUT=results FROM=earlier bench/gpu.sh      going on from the results of an earlier run
#   OUT=results PYTHON=python3.12 bench/gpu.sh
#
# Every step has a time limit and writes its results as it goes, so that a run that is cut short
# leaves what it has; run again with the same OUT, or with FROM, it does only what is missing. A step
# counts as done for the code it ran on. No network is used. Exit code 1 where a step failed or ran
# out of time.

set -u -o pipefail
cd "$(dirname "$0")/.."
: "${OUT:?OUT is not set; it has to name the folder for the results: OUT=results bench/gpu.sh}"
PYTHON=${PYTHON:-python3}
FROM=${FROM:-}
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
if [ -n "$FROM" ]; then
  for file in "$FROM"/gpu.log "$FROM"/*.csv; do
    # What OUT holds already is newer.
    if [ -e "$file" ] && [ ! -e "$OUT/${file##*/}" ]; then
      cp "$file" "$OUT/" && chmod u+w "$OUT/${file##*/}"
    fi
  done
fi
code_hash=$(find kernels miner export bench tests/test_dual_threshold.py tests/towers.py -type f \
  \( -name '*.py' -o -name '*.sh' \) -print0 | LC_ALL=C sort -z | xargs -0 sha256sum \
  | sha256sum | cut -c1-12)
failed=0

# note NAME OUTCOME SECONDS: a line of steps.csv.
note() {
  [ -s "$OUT/steps.csv" ] || echo "step,code,outcome,elapsed_s" > "$OUT/steps.csv"
  echo "$1,$code_hash,$2,$3" >> "$OUT/steps.csv"
}

# step NAME SECONDS COMMAND...: the output goes to gpu.log, the outcome to steps.csv.
step() {
  local name=$1 limit=$2 start=$SECONDS outcome=0
  shift 2
  if grep -qs "^$name,$code_hash,0," "$OUT/steps.csv"; then
    echo "$name: done before"
    return
  fi
  echo "$name: at most $limit s: $*" | tee -a "$OUT/gpu.log"
  timeout -k 10 "$limit" "$@" 2>&1 | tee -a "$OUT/gpu.log" || outcome=$?
  note "$name" "$outcome" "$((SECONDS - start))"
  [ "$outcome" -eq 0 ] || failed=1
}

step device 60 "$PYTHON" -c '
import sys, torch, triton
assert torch.cuda.is_available(), "torch sees no CUDA device"
print(sys.version, torch.__version__, triton.__version__, torch.cuda.get_device_name())
'
# Without conftest.py the kernels' tests need no more than torch, triton, pytest and hypothesis.
kernels=("$PYTHON" -m pytest --noconftest -m gpu -q tests/test_dual_threshold.py)
step test_full 200 "${kernels[@]}" -k "not int8"
step test_int8 200 "${kernels[@]}" -k "int8"
step join_gpu 400 "$PYTHON" -m bench.join_gpu --out "$OUT/join_gpu.csv"
# The encoders need open_clip and timm; where they are not installed, that is said and not passed over.
missing=$("$PYTHON" -c '
from importlib.util import find_spec
needed = ("open_clip", "timm", "torchvision", "huggingface_hub", "safetensors", "pydantic", "PIL",
          "simplejpeg", "scipy", "filelock", "pyarrow", "webdataset", "fsspec", "tenacity")
print(" ".join(name for name in needed if not find_spec(name)))
')
# with_encoders NAME SECONDS COMMAND...: a step that needs them.
with_encoders() {
  if [ -n "$missing" ]; then
    echo "$1: not possible here: $missing is not installed" | tee -a "$OUT/gpu.log"
    note "$1" "not possible here: $missing is not installed" 0
  else
    step "$@"
  fi
}
encoders=(tests/test_encoders.py tests/test_engine_compile.py tests/test_engines.py
  tests/test_bench_attention.py tests/test_batches.py tests/test_ring.py)
with_encoders test_encoders 200 "$PYTHON" -m pytest -m gpu --no-skips -q "${encoders[@]}"
# Engines of other runtimes; those that are not installed are skipped, and named.
engines=(tests/test_engine_onnx.py tests/test_engine_tensorrt.py tests/test_export_engines.py
  tests/test_streams.py)
with_encoders test_engines 200 "$PYTHON" -m pytest -m gpu -q -rs "${engines[@]}"
encode=("$PYTHON" -m bench.encode --device cuda --batch-size 256 --out "$OUT/encode_gpu.csv")
first=stock-fp32,stock-bf16,stock-tuned-bf16,compile-bf16,compile-fp16
for tower in clip-vit-l-14 dinov2-vit-l-14; do
  with_encoders "encode_$tower" 420 "${encode[@]}" --towers "$tower" --providers "$first"
done
experiments=compile-bf16-attention257,compile-bf16-float8
with_encoders encode_experiments 300 "${encode[@]}" --providers "$experiments"
pipeline=("$PYTHON" -m bench.pipeline --device cuda --towers l14 --out "$OUT/pipeline_gpu.csv")
with_encoders pipeline 300 "${pipeline[@]}" --images 8000 --batch-size 256 --repeats 2
step ahead_of_time 300 "$PYTHON" -m pytest --noconftest -q tests/test_ahead_of_time.py
step sweep_shipped 60 "$PYTHON" -m bench.sweep_tiles --out "$OUT/sweep_tiles.csv" --shipped
step sweep_tiles 240 "$PYTHON" -m bench.sweep_tiles --out "$OUT/sweep_tiles.csv"
# What else is installed: ONNX Runtime, TensorRT, autocast, compile in fp32.
with_encoders encode_rest 420 "${encode[@]}"
exit "$failed"
