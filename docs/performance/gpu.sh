#!/bin/bash
# Every figure of docs/performance.md that needs a CUDA GPU, in under eight minutes on an H100; no download.
#   bash docs/performance/gpu.sh [FOLDER]
# Prints the tables and leaves them in FOLDER.
set -euo pipefail
out=${1:-gpu-figures}
mkdir -p "$out"

measure() {
    name=$1
    shift
    echo "== $name: aot $*"
    aot "$@" | tee "$out/$name.txt"
}

# The kernels against their twins, compiled and run for real.
python -m pytest -q tests/test_gpu.py tests/compression/aot/test_sinkhorn_kernel.py tests/models/vision/test_saliency_kernel.py | tee "$out/kernel-tests.txt"

measure compressor-bfloat16 bench compressor --device cuda --dtype bfloat16 --rounds 30
measure compressor-float32 bench compressor --device cuda --dtype float32 --rounds 30
measure compressor-64-frames bench compressor --device cuda --dtype bfloat16 --frames 64 --rounds 30
measure onevision-7b bench video --synthetic onevision-7b --device cuda --dtype bfloat16 --frames 32 --ratio 0.1 --rounds 5
measure onevision-7b-25 bench video --synthetic onevision-7b --device cuda --dtype bfloat16 --frames 32 --ratio 0.25 --rounds 5
measure onevision-0.5b bench video --synthetic onevision-0.5b --device cuda --dtype bfloat16 --frames 32 --ratio 0.1 --rounds 5
