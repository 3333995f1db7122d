#!/bin/sh
# A corpus of real code: fetches the 79 packages of scripts/corpus.tsv (95 MB of Python and Rust source, permissive
# licences) from PyPI and crates.io by pinned hash, and unpacks them into target/corpus. Needs pip and cargo; nothing of it
# is committed, and continuous integration does not run it. Run again, it fetches what is missing.
#
#   scripts/corpus.sh                      fetch all, and print the folder
#   scripts/corpus.sh 20000000             fetch until there are so many bytes of source
set -eu
cd "$(dirname "$0")/.."
list=$PWD/scripts/corpus.tsv
folder=$PWD/target/corpus
archives=$folder/.archives
most=${1:-999999999999}
mkdir -p "$archives"

is_whole() { echo "$2  $1" | sha256sum --check --status - 2>/dev/null; }

fetch_pypi() { # name version sha256
    echo "$1==$2 --hash=sha256:$3" >"$archives/pinned.txt"
    python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
        --dest "$archives/new" --requirement "$archives/pinned.txt" >&2
}

fetch_cargo() { # name version
    # Asking for its description brings a package's archive into Cargo's cache, and nothing that it depends on.
    (cd "$archives" && cargo info --quiet "$1@$2" >/dev/null)
    find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "$1-$2.crate" -exec cp {} "$archives/new/" \;
}

bytes=0
tail -n +2 "$list" | while IFS="$(printf '\t')" read -r registry name version _ sha256 size; do
    [ "$bytes" -lt "$most" ] || break
    archive=$archives/$name-$version.$registry
    if ! is_whole "$archive" "$sha256"; then
        rm -rf "$archives/new" && mkdir "$archives/new"
        "fetch_$registry" "$name" "$version" "$sha256"
        new=$(find "$archives/new" -type f | head -n 1)
        is_whole "${new:-missing}" "$sha256" || {
            echo "$name $version from $registry: its sha256 is not $sha256" >&2
            exit 1
        }
        mv "$new" "$archive"
    fi
    target=$folder/$registry/$name-$version
    if [ ! -d "$target" ]; then
        rm -rf "$target.part" && mkdir -p "$target.part"
        case $registry in
        pypi) python3 -m zipfile -e "$archive" "$target.part" ;;
        cargo) tar -xzf "$archive" -C "$target.part" --strip-components=1 ;;
        esac
        mv "$target.part" "$target"
    fi
    bytes=$((bytes + size))
done
rm -rf "$archives/new" "$archives/pinned.txt"
echo "$folder"
