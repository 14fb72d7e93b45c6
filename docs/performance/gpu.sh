#!/bin/bash
# The target table of docs/performance-gpu.md, in under six minutes on one H100 or H200. No download,
# and the source is used as it is: torch, transformers and this package's other dependencies suffice.
#   bash docs/performance/gpu.sh [--dry-run] [FOLDER]
# Prints the table and leaves it in FOLDER with the figures that it is made of, and a page of times.
# --dry-run checks the script on a CPU with the bundled model.
set -euo pipefail
size=(--synthetic onevision-7b --device cuda --dtype bfloat16 --frames 32 --ratio 0.1 --rounds 7)
if [ "${1-}" = --dry-run ]; then
    dry=$1
    shift
    size=(--synthetic shapes --device cpu --frames 4 --ratio 0.1 --rounds 1)
fi
out=$(realpath -m "${1:-gpu-figures}")
mkdir -p "$out"
rm -f "$out/reuse.json"
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# 1. Answers: stock transformers, all tokens, kept tokens.
python -m aot_cli bench video "${size[@]}" --html "$out/exact.html" --force --json > "$out/exact.json"
# 2. The same with reuse between frames in the tower, where this version has the option.
if [[ $(python -m aot_cli bench video --help) == *--tower* ]]; then
    python -m aot_cli bench video "${size[@]}" --tower stc --html "$out/reuse.html" --force --json \
        > "$out/reuse.json" || rm "$out/reuse.json"
fi
# 3. Compressors, saliency and generation alone; the table.
python docs/performance/targets.py "$out" ${dry-}
# 4. The kernels against their twins, where there is a GPU and pytest.
if [ -z "${dry-}" ] && python -c "import pytest" 2> /dev/null; then
    timeout 90 python -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/compression/aot/test_sinkhorn_kernel.py \
        tests/models/vision/test_saliency_kernel.py | tee "$out/kernel-tests.txt" || true
fi
