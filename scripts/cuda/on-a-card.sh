#!/usr/bin/env bash
# On a machine with a card: checks and times that fill the tables of docs/gpu.md, in one folder. Neither Rust nor a toolkit is needed.
#
#   on-a-card.sh OUT LACUNA CARD PLANS  LACUNA: the program of `cargo xtask cuda build`; CARD, PLANS: those of `cargo xtask cuda card`
#
# First every primitive against the emulation on random bits, then every kernel against f64, then times: `lacuna kernels`. Then
# planned training steps and decoder passes against the CPU's, a memory check if compute-sanitizer is there, the shipped model
# decoded on the card and on the CPU, and a short training run by the kernels. If PyTorch is there: a model of 8 B with random weights,
# served (with LACUNA_TOKENIZER, Stable-DiffCoder's tokenizer.json), PyTorch's attention under the same masks, its fused AdamW and the
# released decoder. Ends with the status of the checks.
set -uo pipefail
[ $# = 4 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
out=$1 lacuna=$2 card=$3 plans=$4
here=$(cd "$(dirname "$0")" && pwd); peers=$here/../peers; root=$here/../..
for program in "$lacuna" "$card" "$plans"; do [ -x "$program" ] || { echo "on-a-card: no program $program" >&2; exit 2; }; done
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
part plans env LACUNA_CARD=0 "$plans" --ignored --skip every_fault --test-threads=1 || status=1
if command -v compute-sanitizer >/dev/null; then
  part memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$card" check || status=1
  part racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$card" check || status=1
fi
for device in cpu cuda; do
  part "generate-$device" "$lacuna" generate --model "$root/models/lacuna-5m/lacuna-5m-q8_0.gguf" --device $device --quiet \
    --sampling greedy --max-new-tokens 200 'def is_prime(n: int) -> bool:' || status=1
done
cmp "$out/generate-cpu.txt" "$out/generate-cuda.txt" || status=1
part train "$lacuna" train "$root/recipes/tiny.toml" --device cuda --out "$out/run" --set model.hidden_size=256 \
  --set model.heads=4 --set model.kv_heads=4 --set stage.0.steps=250 --set stage.1.steps=400 || status=1
if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  if [ -n "${LACUNA_TOKENIZER:-}" ]; then
    if part random-8b python3 "$here/random_8b.py" "$out/8b" "$LACUNA_TOKENIZER"; then
      "$lacuna" serve --model "$out/8b" --device cuda --port 8099 >"$out/serve.txt" 2>&1 & server=$!
      part ask python3 "$here/ask.py" 8099 600 || status=1
      kill -TERM $server; wait $server || status=1
    else
      status=1
    fi
  fi
  for head in 128 64; do part "flex_attention-$head" python3 "$peers/flex_attention.py" "$head"; done
  part adamw python3 "$peers/adamw.py"
  model=${LACUNA_PEER_MODEL:-}                   # a folder in Hugging Face layout
  [ -z "$model" ] || part released_decode python3 "$peers/released_decode.py" --model "$model" --device cuda --dtype bfloat16
else
  echo "no PyTorch with CUDA: nothing to compare with"
fi
exit $status
