#!/bin/sh
# Every number of ../shapes-world.md: sh docs/studies/shapes-world/run.sh RESULTS
# About an hour and a half on two cores. Cut it off whenever you like; it goes on where it was.
set -e
results=${1:?name a folder for the results}

aot eval --shapes 500 --first-seed 3000000 -o "$results/full" --model shapes --methods none
aot eval --shapes 200 --first-seed 4000000 -o "$results/methods" --model shapes
aot eval --shapes 200 --first-seed 4000000 -o "$results/ablations" --model shapes --methods none,aot --ratios 0.25,0.1 \
    --variant no-local:aot.anchors.local_ratio=0 \
    --variant no-global:aot.anchors.local_ratio=1 \
    --variant no-intra:aot.intra.enabled=false \
    --variant no-inter:aot.inter.enabled=false \
    --variant converged:aot.intra.transport.stopping=marginal,aot.inter.transport.stopping=marginal \
    --variant mass-token:aot.intra.mass=token \
    --variant keyframe-once:aot.inter.keyframe=original \
    --variant keyframe-merged:aot.inter.keyframe=merged \
    --variant dynamic:aot.clips.mode=dynamic,aot.clips.segments=2

# The second model: sh run.sh RESULTS MODEL, with what `python -m aot.shapes.training --seed 1` left.
second=${2:-}
[ -n "$second" ] || exit 0
aot eval --shapes 500 --first-seed 3000000 --frames 8 -o "$results/full-1" --model "$second" --methods none
aot eval --shapes 200 --first-seed 4000000 --frames 8 -o "$results/methods-1" --model "$second" --ratios 0.1 \
    --variant aot-last:aot.anchors.deep_layer=-1 \
    --variant attention-last:method=attention,aot.anchors.deep_layer=-1
python docs/studies/shapes-world/saliency.py shapes "$second"
