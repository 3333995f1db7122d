#!/bin/sh
# Makes the screens in the docs: runs the program with a real model in a terminal of 80 columns and draws what
# stands there as SVG.
#
#   sh scripts/screens.sh MODEL [FOLDER]
#
# MODEL is an instruct model that `lacuna chat` opens, FOLDER is docs/images unless given. LACUNA names the program
# (default: target/release/lacuna). Needs tmux.
set -eu
model=${1:?usage: sh scripts/screens.sh MODEL [FOLDER]}
folder=${2:-docs/images}
program=$(realpath "${LACUNA:-target/release/lacuna}")
model=$(realpath "$model")
mkdir -p "$folder"
work=$(mktemp -d)
session=screens-$$
trap 'tmux kill-session -t $session 2>/dev/null || true; rm -rf "$work"' EXIT

keys() { tmux send-keys -t "$session" "$@"; }

# Waits until a line of the screen holds a text, half a minute at most.
wait_for() {
    n=0
    until tmux capture-pane -t "$session" -p | grep -q -e "$1"; do
        n=$((n + 1))
        [ "$n" -lt 300 ] || { echo "no \`$1\` on the screen" >&2; exit 1; }
        sleep 0.1
    done
}

# The screen without its empty end, as SVG.
draw() {
    tmux capture-pane -t "$session" -p | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' | awk '
        { gsub(/&/, "\\&amp;"); gsub(/</, "\\&lt;"); gsub(/>/, "\\&gt;"); line[NR] = $0 }
        END {
            height = NR * 18 + 20
            printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"700\" height=\"%d\" viewBox=\"0 0 700 %d\">\n", height, height
            print "<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#1e1e2e\"/>"
            print "<g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" fill=\"#e0e0e0\">"
            for (i = 1; i <= NR; i++)
                printf "<text x=\"12\" y=\"%d\" xml:space=\"preserve\">%s</text>\n", i * 18 + 6, line[i]
            print "</g></svg>"
        }' > "$folder/$1.svg"
    echo "$folder/$1.svg"
}

mkdir "$work/bin"
ln -s "$program" "$work/bin/lacuna"
tmux new-session -d -s "$session" -x 80 -y 24 -c "$work" \
    "PATH=$work/bin:\$PATH HOME=$work LACUNA_MODEL='$model' PS1='\$ ' bash --norc --noprofile"
wait_for '^\$'

keys "lacuna generate --max-new-tokens 48 'def fibonacci(n):'" Enter
wait_for 'per forward'
draw screen-generate

# A prompt long enough to see how far it is.
i=0
while [ "$i" -lt 80 ]; do
    echo "def add_$i(a, b): return a + b + $i"
    i=$((i + 1))
done > "$work/half.py"
keys "clear; lacuna generate - < half.py" Enter
wait_for 'left$'
draw screen-progress
keys C-c
wait_for '^\$ *$'

keys "clear; lacuna chat --no-history" Enter
wait_for '^>'
keys "What is the capital of France? One sentence." Enter
wait_for 'Paris'
wait_for '^> *$'
keys "And of Italy?" Enter
wait_for 'Rome'
wait_for '^> *$'
keys "/help" Enter
wait_for 'stays as far'
draw screen-chat
