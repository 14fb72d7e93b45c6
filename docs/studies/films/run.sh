#!/bin/sh
# The tables of ../films.md, on 100 clips, and a ranking: sh docs/studies/films/run.sh RESULTS [SECOND_MODEL]
# Hours on two cores. Cut it off whenever you like; it goes on where it was. SECOND_MODEL is what
# `python -m aot.shapes.training --seed 1` leaves. CLIPS, METHODS and RATIOS make it smaller.
set -e
results=${1:?name a folder for the results}
drawn="$results/clips"
clips=${CLIPS:-100}
aot eval --shapes "$clips" --world films --first-seed 31000000 -o "$results" --model shapes --frames 16 \
    --methods none --ratios 1

# how far the models can answer: films and plain clips, with as many frames as a film and as in training
aot eval "$drawn/questions.jsonl" -o "$results/films8" --model shapes --frames 8 --methods none --ratios 1
aot eval --shapes "$clips" --first-seed 19000000 -o "$results/plain16" --model shapes --frames 16 --methods none --ratios 1
plain="$results/plain16/clips/questions.jsonl"
aot eval "$plain" -o "$results/plain8" --model shapes --frames 8 --methods none --ratios 1
if [ -n "$2" ]; then
    aot eval "$drawn/questions.jsonl" -o "$results/films-second" --model "$2" --frames 16 --methods none --ratios 1
fi
python docs/studies/films/blind.py "$drawn/questions.jsonl" "$results" "$results/films8" ${2:+"$results/films-second"}
python docs/studies/films/blind.py "$plain" "$results/plain16" "$results/plain8"

# the ranking: without the families that the models answer no better than a constant
grep -vE '"family": "(change|count|flash)"' "$drawn/questions.jsonl" > "$drawn/closed.jsonl"
measure() {
    aot eval "$drawn/closed.jsonl" -o "$1" --model "$2" --frames 16 \
        --methods "${METHODS:-all}" --ratios "${RATIOS:-0.25,0.1,0.05}" \
        --variant attention-last:method=attention,methods.attention.layer=-1 \
        --variant aot-last:aot.anchors.deep_layer=-1
    python docs/studies/methods/table.py "$1"
}
measure "$results/all" shapes
[ -z "$2" ] || measure "$results/second" "$2"
