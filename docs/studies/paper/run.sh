#!/usr/bin/env bash
# The rows of a table in ../../paper-tables.md: bash docs/studies/paper/run.sh onevision|video RESULTS [MORE]
# Each benchmark of each row is a run of lmms-eval with a folder of its own, and runs that have a result are left out: cut
# it off whenever you like. MORE are further arguments of lmms-eval. Variables: LAUNCH, how a run is started (for instance
# "torchrun --nproc_per_node 8 -m lmms_eval"); MODEL, another checkpoint; ROWS, some of "all 25 20 15 10".
set -euo pipefail
backbone=${1:?onevision or video} results=${2:?name a folder for the results}
shift 2
case $backbone in
  onevision) model=llava-hf/llava-onevision-qwen2-7b-ov-hf frames=frames=32 ;;
  video) model=lmms-lab/LLaVA-Video-7B-Qwen2 frames=fps=1,max_frames=64 ;;
  *) echo "the first argument is onevision or video, not $backbone" >&2; exit 2 ;;
esac

has_result() { [ -n "$(find "$folder" -name '*_results.json' 2> /dev/null)" ]; }

for row in ${ROWS:-all 25 20 15 10}; do
  for task in mvbench egoschema longvideobench_val_v videomme; do
    preset=paper/$backbone-r$row
    case $backbone-$row-$task in onevision-10-longvideobench_val_v | onevision-10-videomme) preset+=-long ;; esac
    [ "$row" = all ] && settings=method=none,$frames || settings=preset=$preset
    folder=$results/$backbone/$row/$task
    has_result && continue
    ${LAUNCH:-python -m lmms_eval} --model aot --model_args "pretrained=${MODEL:-$model},$settings" --tasks "$task" \
      --batch_size 1 --log_samples --output_path "$folder" "$@"
    has_result || { echo "no result of $task" >&2; exit 1; }  # lmms-eval exits with 0
  done
done
python "$(dirname "$0")/table.py" "$results/$backbone"
