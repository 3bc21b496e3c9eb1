#!/usr/bin/env bash
# Everything that needs a CUDA device, in one call of less than ten minutes: tests, the live step, the bench by stage.
#   benchmarks/cuda_all.sh RESULTS_FOLDER [CHECKOUT_OF_THE_OFFICIAL_RELEASE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?a folder for the results}
official=()
[[ $# -lt 2 ]] || official=(--official "$2")
python=${PYTHON:-python}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.txt"
timeout 120 "$python" -m pytest -q tests/core/test_graphed.py tests/core/test_equality.py 2>&1 | tail -20 | tee "$out/tests.txt" || true
timeout 270 "$python" -m benchmarks.cuda "${official[@]}" --json "$out/cuda.json" 2>&1 | tee "$out/cuda.txt" || true
timeout 150 "$python" -m omnistream_core.cli bench --device cuda --preset large --size 512 --frames 16,64 --window 16 \
	--dtypes bfloat16 "${official[@]}" --json "$out/bench.json" 2>&1 | tee "$out/bench.txt" || true
ls -l "$out"
