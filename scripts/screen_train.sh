#!/bin/sh
# Makes the pictures of training in the docs: the dashboard of a run in a terminal of 80 columns and 24 rows, and two runs
# compared.
#
#   sh scripts/screen_train.sh [FOLDER]
#
# FOLDER is docs/images unless given. LACUNA names the program (default: target/release/lacuna). Needs tmux; takes some
# minutes, and the numbers are those of the machine that it runs on.
set -eu
folder=$(realpath "${1:-docs/images}")
root=$(realpath "$(dirname "$0")/..")
program=$(realpath "${LACUNA:-target/release/lacuna}")
work=$(mktemp -d)
session=screen-train-$$
trap 'tmux kill-session -t $session 2>/dev/null || true; rm -rf "$work"' EXIT

watched="--set model.hidden_size=64 --set model.intermediate_size=128 --set data.window=64 --set keep_checkpoints=1 \
--set evaluation.windows=4 --set evaluation.evaluate_every=60 --set evaluation.sample_every=60 \
--set stage.0.steps=600 --set stage.1.steps=400 --set stage.1.corruption.warmup_steps=60"

tmux new-session -d -s "$session" -x 80 -y 24 -c "$work" \
    "$program train $root/recipes/smoke.toml --tui --out runs/smoke $watched; sleep 60"
n=0
until tmux capture-pane -t "$session" -p | grep -q 'step [89][0-9][0-9] of'; do
    n=$((n + 1))
    [ "$n" -lt 6000 ] || { echo "step 800 never came" >&2; exit 1; }
    sleep 0.2
done
tmux capture-pane -t "$session" -p -e > "$work/screen"
python3 "$root/scripts/screen_svg.py" < "$work/screen" > "$folder/screen-train.svg"
echo "$folder/screen-train.svg"
until [ -e "$work/runs/smoke/final" ]; do sleep 1; done

cd "$work"
"$program" train "$root/recipes/smoke.toml" --quiet --out runs/smoke-slow $watched --set 'evaluation.prompts=[]' \
    --set stage.0.learning_rate=1e-3 --set stage.1.learning_rate=1e-3
"$program" plot runs/smoke runs/smoke-slow --out "$folder/compare"
rm "$folder/compare.svg"
