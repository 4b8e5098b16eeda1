#!/usr/bin/env bash
# Makes one folder with everything that the GPU check needs: programs built with the feature `cuda`,
# scripts, peers, the fixtures that the tests read, and Liger's kernels for the peers.
#
#   benches/gpu/pack.sh [FOLDER]         by default gpu-check; then, on the GPU machine: FOLDER/check.sh OUT
#
# The folder works from any place and has at most 20 MiB. Building needs the CUDA 13.0 toolkit: nvcc and the
# libraries to link with, and a libcuda, such as the toolkit's stub. It needs no GPU.
#   CUDA_HOME (else CUDA_PATH, CUDA_ROOT, CUDA_TOOLKIT_ROOT_DIR, nvcc on PATH, /usr/local/cuda): the toolkit.
#   CUDA_COMPUTE_CAP (default 90): target of candle's own kernels, which then run only on that GPU. maqam's
#     kernels are for 80 and newer.
#   CARGO_TARGET_DIR: where cargo builds.
#   PACK_PROGRAMS: a folder with `bench`, `cuda_ops` and `cuda_train` to pack instead of building them. The limit
#     applies to them too, so build them with stand-ins.sh.
#   PACK_LIGER: a wheel of liger-kernel to pack instead of downloading it with pip, or `none`.
# libcuda comes from the driver, libcublas, libcublasLt, libcurand and libcudart from the toolkit of the
# machine where the check runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(realpath -m "${1:-gpu-check}")
cd "$here/../.."

LARGEST_BYTES=$((20 * 1024 * 1024))
LIGER=liger-kernel==0.8.5
# Files that tests/cuda_ops.rs and tests/cuda_train.rs read.
FIXTURES="bf16_curves.json qwen_omni qwen_omni_tied qwen2_audio/config.json qwen2_audio/model.safetensors"
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}

if [ -e "$folder" ] && [ ! -f "$folder/check.py" ]; then
  echo "$folder is there and is no folder of the GPU check" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

programs=${PACK_PROGRAMS:-}
if [ -z "$programs" ]; then
  programs=$work/programs
  mkdir "$programs"
  # Without them the programs are too large for the limit.
  . "$here/stand-ins.sh"
  # cargo lists its outputs as JSON. A test has a hash after its name, and the bench is `train`.
  cargo build --release --features cuda --bench train --test cuda_ops --test cuda_train --message-format json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | while read -r built; do
    name=$(basename "$built" | sed 's/-[0-9a-f]\{16\}$//; s/^train$/bench/')
    # The whole program is built for tests of commands, and is larger than all the rest.
    if [ "$name" = maqam ]; then continue; fi
    strip --strip-all -o "$programs/$name" "$built"
  done
fi

rm -rf "$folder"
mkdir -p "$folder/peers" "$folder/tests/fixtures" "$folder/wheels"
cp "$here"/*.py "$here/check.sh" "$folder/"
for peer in ceiling qwen_gpu shapes thinker variants; do cp "benches/peers/$peer.py" "$folder/peers/"; done
(cd tests/fixtures && cp -r --parents $FIXTURES "$folder/tests/fixtures/")
for program in bench cuda_ops cuda_train; do
  if [ ! -x "$programs/$program" ]; then
    echo "there is no program $programs/$program" >&2
    exit 1
  fi
  needed=$(objdump -p "$programs/$program" 2> /dev/null | awk '/NEEDED/ { printf " %s", $2 }' || true)
  echo "$program: $(stat -Lc %s "$programs/$program") bytes; needs$needed"
done
# The programs share most of their code and kernels. One archive with a dictionary that reaches over all of them
# holds what they share once.
tar -C "$programs" --owner 0 --group 0 --mtime @0 --dereference -cf - bench cuda_ops cuda_train |
  xz --x86 --lzma2=preset=9,dict=128MiB > "$folder/programs.tar.xz"

# The wheel is pure Python: check.py unpacks it and adds it to PYTHONPATH for the peers.
wheel=${PACK_LIGER:-}
if [ -z "$wheel" ]; then
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work/wheels" "$LIGER"
  wheel=$(echo "$work"/wheels/*.whl)
fi
if [ "$wheel" != none ]; then cp "$wheel" "$folder/wheels/"; fi

bytes=$(find "$folder" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
echo "$folder: $bytes bytes in $(find "$folder" -type f | wc -l) files"
if [ "$bytes" -gt "$LARGEST_BYTES" ]; then
  echo "more than $LARGEST_BYTES bytes; the largest files:" >&2
  find "$folder" -type f -printf '%s %p\n' | sort -rn | sed 10q >&2
  exit 1
fi
