#!/bin/sh
# Base and tuned scores of one task, hyperparameters chosen without the test rows:
#
#   evals/scores.sh TASK SHOTS LIMIT LEARNING_RATE...
#
# Trains recipes/TASK-smollm2.toml once for each learning rate with a twentieth of the training rows held out, takes the
# run with the lowest loss on those rows, and scores base (zero-shot and with SHOTS few-shot examples) and that run on the
# first LIMIT test rows. Only the run that was taken meets the test rows. Needs `marill` on the path, python3 and the
# package (recipes/fetch-smollm2.sh); writes runs/scores/TASK/, where a second call finds the runs that the first one finished.
# TRAIN and EVAL hold further arguments of `marill train` and `marill eval`: TRAIN="--set train.max_tokens=3000" tries the
# script, EVAL="--allow-code-execution" runs programs.
set -eu
task=$1 shots=$2 limit=$3
shift 3
out=runs/scores/$task
base=models/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p "$out"
if [ -e "$out/arguments" ] && [ "$(cat "$out/arguments")" != "TRAIN='${TRAIN:-}'" ]; then
    echo "error: the runs in \`$out\` were trained with $(cat "$out/arguments")" >&2
    echo "hint: move them away" >&2
    exit 2
fi
echo "TRAIN='${TRAIN:-}'" >"$out/arguments"
for rate in "$@"; do
    [ -s "$out/train-$rate.json" ] || marill train "recipes/$task-smollm2.toml" --set data.val_fraction=0.05 \
        --set "optimizer.learning_rate=$rate" ${TRAIN:-} --output-dir "$out/run-$rate" --json >"$out/train-$rate.json.part"
    [ -s "$out/train-$rate.json" ] || mv "$out/train-$rate.json.part" "$out/train-$rate.json"
done
rate=$(python3 - "$out" "$@" <<'PYTHON'
import json
import sys

out, rates = sys.argv[1], sys.argv[2:]
loss = {rate: json.load(open(f"{out}/train-{rate}.json"))["train"]["val_loss"] for rate in rates}
print("validation loss:", loss, file=sys.stderr)
if None in loss.values():
    sys.exit("error: no training row was held out, so no rate can be chosen")
print(min(rates, key=loss.get))
PYTHON
)
echo "$rate" >"$out/taken"
eval_on() { # model, file, further arguments
    model=$1 file=$2
    shift 2
    marill eval "$model" --tasks "$task" --limit "$limit" ${EVAL:-} "$@" --json >"$out/$file.json"
}
eval_on "$base" base-0
eval_on "$base" base-shots --shots "$shots"
eval_on "$out/run-$rate" tuned
for before in base-0 base-shots; do
    marill eval --compare "$out/$before.json" "$out/tuned.json"
done
