#!/usr/bin/env bash
# Builds `maqam bench` and the tests on a card with the feature `cuda`, strips and packs them for a machine that has a card and no compiler.
#
#   benches/gpu/pack.sh [ARCHIVE]        by default gpu-check.tar.xz; benches/gpu/check.sh takes it
#
# Needs the CUDA 13.0 toolkit: nvcc and the libraries to link with, and a libcuda, for which the toolkit's stub will do. No card.
#   CUDA_HOME (else CUDA_PATH, CUDA_ROOT, CUDA_TOOLKIT_ROOT_DIR, nvcc on PATH, /usr/local/cuda): the toolkit's folder.
#   CUDA_COMPUTE_CAP (default 90): the card that candle's own kernels are compiled for; ours are for 80, 90 and later ones.
#   CARGO_TARGET_DIR: where cargo builds. PACK_TESTS (default "cuda_ops cuda_train"): the tests that go along, of those there are.
# libcuda comes from the driver, libcublas, libcublasLt and libcurand from the toolkit of the machine where it runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
archive=$(realpath -m "${1:-gpu-check.tar.xz}")
cd "$here/../.."

# An archive that travels everywhere.
LARGEST_BYTES=10000000
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tests=()
for test in ${PACK_TESTS:-cuda_ops cuda_train}; do
  if [ -f "tests/$test.rs" ]; then tests+=(--test "$test"); else echo "no tests/$test.rs: it does not go along" >&2; fi
done
# cargo says as JSON what it built; executables are named there, tests with a hash behind their name.
cargo build --release --features cuda --bench train ${tests[@]+"${tests[@]}"} --message-format json-render-diagnostics |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | while read -r built; do
  name=$(basename "$built" | sed 's/-[0-9a-f]\{16\}$//; s/^train$/bench/')
  # Built for tests of commands, larger than all the rest.
  if [ "$name" = maqam ]; then continue; fi
  strip --strip-all -o "$folder/$name" "$built"
done
if [ ! -x "$folder/bench" ]; then
  echo "cargo named no program of benches/train.rs" >&2
  exit 1
fi

# All of them hold the same kernels: a dictionary larger than the programs together stores them once.
tar -C "$folder" -cf - --sort=name --owner=0 --group=0 --mtime=@0 . | xz --x86 --lzma2=preset=9,dict=256MiB > "$archive"

for program in "$folder"/*; do
  echo "$(basename "$program"): $(stat -c %s "$program") bytes; needs$(objdump -p "$program" | awk '/NEEDED/ { printf " %s", $2 }')"
done
bytes=$(stat -c %s "$archive")
echo "$archive: $bytes bytes"
if [ "$bytes" -gt "$LARGEST_BYTES" ]; then
  echo "more than $LARGEST_BYTES bytes; PACK_TESTS=cuda_ops leaves one test behind" >&2
  exit 1
fi
