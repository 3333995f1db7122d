#!/usr/bin/env bash
# On a machine with a card: everything that docs/gpu.md wants to know of it, in one folder. Neither Rust nor a toolkit is needed.
#
#   on-a-card.sh OUT LACUNA CARD        LACUNA, CARD: the programs of `cargo xtask cuda build` and `cargo xtask cuda card`
#
# First every primitive against the emulation on random bits, then every kernel against f64, then times: `lacuna kernels`. A
# memory check if compute-sanitizer is there; a short training run by the kernels; PyTorch's attention under the same masks, its fused
# AdamW and the released decoder if PyTorch is there. Ends with the status of the checks.
set -uo pipefail
[ $# = 3 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
out=$1 lacuna=$2 card=$3
here=$(cd "$(dirname "$0")" && pwd); peers=$here/../peers
for program in "$lacuna" "$card"; do [ -x "$program" ] || { echo "on-a-card: no program $program" >&2; exit 2; }; done
mkdir -p "$out" || exit 2
status=0
part() { # NAME COMMAND…: runs it, and keeps what it says
  local name=$1; shift
  echo "== $name: $*"
  "$@" 2>&1 | tee "$out/$name.txt"
  return "${PIPESTATUS[0]}"
}

part kernels "$lacuna" kernels --check --bench --out "$out/kernels" --program "$card" || status=$?
[ $status != 3 ] || exit 3                       # there is no card
if command -v compute-sanitizer >/dev/null; then
  part memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$card" check || status=1
  part racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$card" check || status=1
fi
part train "$lacuna" train "$here/../../recipes/tiny.toml" --device cuda --out "$out/run" --set model.hidden_size=256 \
  --set model.heads=4 --set model.kv_heads=4 --set stage.0.steps=100 --set stage.1.steps=300 || status=1
if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  for head in 128 64; do part "flex_attention-$head" python3 "$peers/flex_attention.py" "$head"; done
  part adamw python3 "$peers/adamw.py"
  model=${LACUNA_PEER_MODEL:-}                   # a folder in Hugging Face layout
  [ -z "$model" ] || part released_decode python3 "$peers/released_decode.py" --model "$model" --device cuda --dtype bfloat16
else
  echo "no PyTorch with CUDA: nothing to compare with"
fi
exit $status
