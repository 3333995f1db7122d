#!/bin/sh
# Runs clients' own code against a server that is up, each at a pinned version:
#
#     run.sh http://127.0.0.1:8080 [FOLDER for what is installed]
#
# OpenAI's Python package always; llama.vim where LLAMA_VIM names its folder (commit a1c8e6e) and vim is 9.1 or newer; lm-eval
# where LM_EVAL=yes. Nothing of it is needed to build or test lacuna.
set -eu
server=$1
folder=${2:-clients-venv}
here=$(cd "$(dirname "$0")" && pwd)
test -d "$folder" || python3 -m venv "$folder"
"$folder/bin/pip" install --quiet 'openai==2.8.0'
"$folder/bin/python" "$here/openai_check.py" "$server/v1"

if test -n "${LLAMA_VIM:-}"; then
    OUT=$(mktemp)
    export OUT SERVER="$server"
    # A terminal that nobody types in.
    sleep 40 | script -qec "vim -n -T xterm -u $here/llama_vim.vim" /dev/null > /dev/null || true
    echo "llama.vim:"
    sed 's/^/    /' "$OUT"
    rm "$OUT"
fi

if test "${LM_EVAL:-}" = yes; then
    "$folder/bin/pip" install --quiet 'lm_eval[api]==0.4.13'
    "$folder/bin/lm_eval" run --model local-completions --tasks arc_easy --limit 10 \
        --model_args "base_url=$server/v1/completions,model=lacuna,tokenizer_backend=remote,num_concurrent=1,max_retries=1"
fi
