#!/bin/sh
# The tables of ../../results.md: sh docs/studies/methods/run.sh RESULTS [SECOND_MODEL]
# Six hours on one core. Cut it off whenever you like; it goes on where it was. SECOND_MODEL is a folder with another
# training of the same form: `python -m aot.shapes.training --seed 1`, or the first one, whose weights the history of
# this repository has: git archive 08635f4 aot/shapes/model | tar x -C FOLDER. CLIPS makes it smaller.
set -e
results=${1:?name a folder for the results}
drawn="$results/clips"
aot eval --shapes "${CLIPS:-500}" --first-seed 19000000 -o "$results" --model shapes --frames 8 --methods none --ratios 1
# "what happens?" takes as long as all other questions of a video together
grep -v '"what happens ?"' "$drawn/questions.jsonl" > "$drawn/closed.jsonl"

# The methods that need not read the question; `echoprune` does, and takes as long as all others together.
all=none,random,uniform,attention,frames,aot,aot-dyn,standout,floc,vcast,earlytom,fastvid,flashvid,holitom,prunevid
all=$all,vidcom2,evs,dycoke,visionzip,prumerge,ottvid,kitoke,simplecluster,vqtoken,tome-pooled,unified-stc,framefusion
all=$all,tome,tempme
few=none,random,attention,aot,aot-dyn,standout,floc,vcast,earlytom,flashvid,vidcom2,evs,ottvid,kitoke,simplecluster
few=$few,vqtoken,unified-stc,tome,tempme
variants="--variant attention-last:method=attention,methods.attention.layer=-1 --variant aot-last:aot.anchors.deep_layer=-1"
for method in none aot standout; do
    variants="$variants --variant $method-stc:method=$method,tower.name=stc"
done
for method in none aot standout earlytom; do
    variants="$variants --variant $method-earlytower:method=$method,tower.name=earlytom"
done
measure() {
    # shellcheck disable=SC2086
    aot eval "$drawn/closed.jsonl" -o "$results/$1" --model "$2" --frames 8 --methods "$3" --ratios 0.25,0.1,0.05,0.02 $variants
}
measure first shapes "$all"
python docs/studies/methods/table.py "$results/first" --plot docs/methods.svg
[ -z "$2" ] || measure second "$2" "$few"
[ -z "$2" ] || python docs/studies/methods/table.py "$results/second"

few_of() {  # the questions about the first $1 clips, or the first one about each with $2
    python - "$drawn/closed.jsonl" "$1" "$2" << 'FEW'
import json, sys
lines = [line for line in open(sys.argv[1])]
videos = list(dict.fromkeys(json.loads(line)["video"] for line in lines))[: int(sys.argv[2])]
asked = {video: [line for line in lines if json.loads(line)["video"] == video] for video in videos}
sys.stdout.writelines(line for each in asked.values() for line in (each[:1] if sys.argv[3] else each))
FEW
}
few_of 30 "" > "$drawn/thirty.jsonl"
aot eval "$drawn/thirty.jsonl" -o "$results/echoprune" --model shapes --frames 8 --methods none,standout,echoprune \
    --ratios 0.25,0.1,0.05,0.02
python docs/studies/methods/table.py "$results/echoprune" --against echoprune

# times, on a machine that does nothing else: one question about each of 20 videos
few_of 20 one > "$drawn/few.jsonl"
aot eval "$drawn/few.jsonl" -o "$results/times" --model shapes --frames 8 --methods all --ratios 0.5,0.1
python docs/studies/methods/table.py "$results/times" --cost 0.1
