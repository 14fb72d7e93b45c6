#!/bin/sh
# Every number of ../projector.md: sh docs/studies/projector/run.sh RESULTS
# About an hour on two cores. Cut it off whenever you like; it goes on where it was.
set -e
results=${1:?name a folder for the results}
study=docs/studies/projector

# three trainings of the projector that differ in nothing but the tokens that the language model reads
python $study/train.py "$results/trained/aot" --method aot --ratio 0.1
python $study/train.py "$results/trained/all" --method none --ratio 1
python $study/train.py "$results/trained/random" --method random --ratio 0.1
# the same as the first, with the language model trained too
python $study/train.py "$results/trained/lm" --method aot --ratio 0.1 --language-model --steps 100 --peak 3e-4
python $study/gradients.py

# fresh clips, in no training and no validation
aot eval --shapes 250 --first-seed 19000250 -o "$results" --model shapes --frames 8 --methods none
# "what happens?" takes as long as all other questions of a video together
grep -v '"what happens ?"' "$results/clips/questions.jsonl" > "$results/clips/closed.jsonl"
measure() {
    aot eval "$results/clips/closed.jsonl" -o "$results/$1" --model "$2" --frames 8 \
        --methods none,aot,standout,random --ratios "$3"
}
measure bundled shapes 0.25,0.1,0.05
measure aot "$results/trained/aot/model" 0.25,0.1,0.05
measure random "$results/trained/random/model" 0.25,0.1,0.05
measure all "$results/trained/all/model" 0.1
measure lm "$results/trained/lm/model" 0.1
python $study/compare.py "$results/clips/closed.jsonl" "$results/bundled" "$results/aot" "$results/random" "$results/all" "$results/lm"
