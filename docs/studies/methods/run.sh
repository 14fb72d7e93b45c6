#!/bin/sh
# Every number of the tables in ../../methods.md: sh docs/studies/methods/run.sh RESULTS [SECOND_MODEL]
# Five hours on two cores. Cut it off whenever you like; it goes on where it was. SECOND_MODEL is what
# `python -m aot.shapes.training --seed 1` leaves.
set -e
results=${1:?name a folder for the results}
drawn="$results/clips"
aot eval --shapes 500 --first-seed 16000000 -o "$results" --model shapes --methods none
# "what happens?" takes as long as all other questions of a video together
grep -v '"what happens ?"' "$drawn/questions.jsonl" > "$drawn/closed.jsonl"

variants="--variant attention-last:method=attention,methods.attention.layer=-1 --variant aot-last:aot.anchors.deep_layer=-1"
aot eval "$drawn/closed.jsonl" -o "$results/all" --model shapes --frames 8 --methods all --ratios 0.5,0.25,0.1,0.05 $variants
python docs/studies/methods/table.py "$results/all" --plot docs/methods.svg
if [ -n "$2" ]; then
    few=none,random,attention,aot,aot-dyn,standout,vidcom2,evs,simplecluster,unified-stc,tome,tempme
    aot eval "$drawn/closed.jsonl" -o "$results/second" --model "$2" --frames 8 --methods $few --ratios 0.25,0.1,0.05 $variants
    python docs/studies/methods/table.py "$results/second"
fi

# times, on a machine that does nothing else: one question about each of 20 videos
python - "$drawn/closed.jsonl" > "$drawn/few.jsonl" << 'FEW'
import json, sys
lines = {json.loads(line)["video"]: line for line in reversed(open(sys.argv[1]).readlines())}
sys.stdout.writelines(list(reversed(lines.values()))[:20])
FEW
aot eval "$drawn/few.jsonl" -o "$results/times" --model shapes --frames 8 --methods all --ratios 0.5,0.25,0.1
python docs/studies/methods/table.py "$results/times" --cost 0.1
