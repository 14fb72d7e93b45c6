#!/bin/sh
# Does `aot tune` find what a full grid finds, and in how much of its time? The table of ../../tuning.md:
#   sh docs/studies/tune/run.sh RESULTS
# Ten times 20 drawn clips; about 45 minutes of one core. Cut it off whenever you like; it goes on where it was.
# The grid is `aot eval`, which encodes every video once for all conditions, as `aot tune` does.
set -e
results=${1:?name a folder for the results}
drawn="$results/clips"
methods=standout,vidcom2,attention,simplecluster,aot,kitoke,floc,random
ratios=0.5,0.35,0.25,0.18,0.125,0.1,0.07,0.05,0.035,0.025
export OMP_NUM_THREADS=1

[ -f "$drawn/closed.jsonl" ] || {
    aot eval --shapes 200 --first-seed 19000000 -o "$results" --model shapes --frames 8 --methods none --ratios 1
    # "what happens?" takes as long as all other questions of a video together
    grep -v '"what happens ?"' "$drawn/questions.jsonl" > "$drawn/closed.jsonl"
}
for draw in 0 1 2 3 4 5 6 7 8 9; do
    [ -f "$results/$draw.tune.s" ] && continue
    data="$drawn/draw$draw.jsonl"
    python docs/studies/tune/compare.py --draw "$draw" "$drawn/closed.jsonl" > "$data"
    # `times` adds up the CPU time of the children, which other load does not disturb.
    ( aot eval "$data" -o "$results/$draw.grid" --model shapes --methods "none,$methods" --ratios "$ratios" --quiet
      times ) > "$results/$draw.grid.s"
    ( aot tune --questions "$data" -o "$results/$draw.tune" --model shapes --methods "$methods" --ratios "$ratios" \
          --max-loss 1 --quiet || [ $? -eq 1 ]
      times ) > "$results/$draw.tune.s"
done
python docs/studies/tune/compare.py "$results"
