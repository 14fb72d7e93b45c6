#!/bin/sh
# How well does the divergence from the full-token model predict the loss of accuracy?
#   sh docs/studies/fidelity/run.sh RESULTS [SECOND_MODEL]
# About four hours on two cores for each model. Cut it off whenever you like; it goes on where it was.
# SECOND_MODEL is what `python -m aot.shapes.training --seed 1` leaves. CLIPS, METHODS and RATIOS make it smaller.
set -e
results=${1:?name a folder for the results}
drawn="$results/clips"
aot eval --shapes "${CLIPS:-200}" --first-seed 18000000 -o "$results" --model shapes --frames 8 --methods none --ratios 1
# "what happens?" takes as long as all other questions of a video together
grep -v '"what happens ?"' "$drawn/questions.jsonl" > "$drawn/closed.jsonl"

set -- "$results/first" ${2:+"$results/second" "$2"}
measure() {
    aot eval "$drawn/closed.jsonl" -o "$1" --model "$2" --frames 8 --reference full \
        --methods "${METHODS:-all}" --ratios "${RATIOS:-0.5,0.25,0.1,0.05}"
}
measure "$1" shapes
[ -z "$3" ] || measure "$2" "$3"
python docs/studies/fidelity/predict.py "$drawn/closed.jsonl" "$1" ${2:+"$2"} --plot "$results/fidelity.svg"
