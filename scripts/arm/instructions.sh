#!/usr/bin/env bash
# Instructions of a product with stored weights on an emulated ARM processor, per weight and for 1, 4 and 8 rows of x, as
# the table of docs/design.md. It needs what `cargo xtask ci --only arm` needs, and gcc for the plugin that counts.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=aarch64-unknown-linux-gnu
out=${CARGO_TARGET_DIR:-target}/arm
plain=profile.dev.package.lacuna-kernels
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
cargo build --locked --target "$target" --target-dir "$out" --package lacuna-kernels --example instructions \
  --config "$plain.debug-assertions=false" --config "$plain.overflow-checks=false"
gcc -shared -fPIC -O2 -o "$out/instructions.so" scripts/arm/instructions.c

# count FORMAT ROWS ISA REPEATS
count() {
  RAYON_NUM_THREADS=1 qemu-aarch64 -L /usr/aarch64-linux-gnu -plugin "$out/instructions.so" \
    "$out/$target/debug/examples/instructions" "$@" 2>&1 >/dev/null | sed -n 's/ instructions$//p'
}

echo '| stored as | portable: 1 row | 4 rows | 8 rows | NEON: 1 row | 4 rows | 8 rows |'
echo '| --- | ---: | ---: | ---: | ---: | ---: | ---: |'
for format in F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q4K Q6K; do
  printf '| %s |' "$format"
  for isa in Portable Neon; do
    for rows in 1 4 8; do
      few=$(count "$format" "$rows" "$isa" 2)
      many=$(count "$format" "$rows" "$isa" 6)
      # Four products of 240 · 1536 weights.
      awk -v n="$((many - few))" 'BEGIN { printf " %.2f |", n / 4 / 240 / 1536 }'
    done
  done
  echo
done
