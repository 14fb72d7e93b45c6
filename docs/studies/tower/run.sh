#!/bin/sh
# The table on reuse between frames in ../../methods.md: sh docs/studies/tower/run.sh RESULTS
# About an hour on two cores. Cut it off whenever you like; it goes on where it was.
set -e
results=${1:?name a folder for the results}
aot eval --shapes 40 -o "$results" --model shapes --frames 8 --methods none --ratios 1
for method in none aot; do
    variants=""
    for interval in 2 4 8; do
        stc="method=$method,tower.name=stc,tower.stc.interval=$interval"
        variants="$variants --variant $method-stc$interval:$stc --variant $method-stc$interval-nogate:$stc,tower.stc.cut=1"
    done
    # shellcheck disable=SC2086
    aot eval "$results/clips/questions.jsonl" -o "$results/$method" --model shapes --frames 8 --methods "$method" --ratios 10% $variants
    python docs/studies/methods/table.py "$results/$method" --against "$method"
done
