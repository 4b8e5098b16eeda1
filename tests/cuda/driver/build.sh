#!/usr/bin/env bash
# Builds the emulated driver and its libraries for a binary made with the feature `cuda`, which then runs without a GPU:
#   tests/cuda/driver/build.sh FOLDER target/release/maqam
#   LD_LIBRARY_PATH=FOLDER target/release/maqam train RECIPE --device cuda
# Several binaries may share the folder: name all of them.
# It can simulate a fault, to test the reaction of a test or a script:
#   MAQAM_EMULATED_FAULT=swiglu LD_LIBRARY_PATH=FOLDER target/release/maqam bench train ...
# The first launch of the kernel of that name (as in crates/engine/src/ops/cuda/kernels; `product` for matrix products) is accepted, and from then on
# every call of the process fails with CUDA_ERROR_ILLEGAL_ADDRESS, as on a GPU. Other processes are not touched. driver.cpp lists the other
# settings.
# It takes a C++ compiler (CXX, c++ otherwise) and binutils. A linked function that is not emulated here
# becomes a function that prints its name and fails.
set -euo pipefail
mkdir -p "${1:?a folder for the libraries}"
folder=$(realpath "$1")
shift
: "${1:?a binary made with the feature cuda}"
mapfile -t binaries < <(realpath "$@")
cd "$(dirname "$0")"
compiler=${CXX:-c++}
flags=(-std=c++17 -O2 -g1 -march=native -fPIC -shared -fvisibility=hidden -fno-strict-aliasing -U_FORTIFY_SOURCE -Wall -Wextra -Wno-unknown-pragmas)
# As in tests/it/cuda_kernels/compile.rs: undefined behaviour of a kernel becomes an illegal instruction, which the emulator reports.
checks=(-fsanitize=alignment,bounds,shift -fsanitize-undefined-trap-on-error)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Names of all functions that the binaries want of anyone.
nm -D --undefined-only "${binaries[@]}" | awk '{print $NF}' | sed 's/@.*//' | sort -u > "$work/wanted"

# stubs NAME PATTERN: a source with a weak function for each wanted name that matches.
stubs() {
  {
    echo '#include <cstdio>'
    echo '#define STUB(name) extern "C" __attribute__((weak, visibility("default"))) int name() { fprintf(stderr, "emulated GPU: " #name " is not emulated\n"); return 34; }'
    # Functions that a program of the CUDA runtime calls before it begins: there is nothing to register.
    echo '#define QUIET(name) extern "C" __attribute__((weak, visibility("default"))) void** name() { static void* nothing; return &nothing; }'
    grep -E "$2" "$work/wanted" | sed -E 's/^(__cuda.*)$/QUIET(\1)/; t; s/.*/STUB(&)/' || true
  } > "$work/$1-stubs.cpp"
}

# library NAME PATTERN SOURCES AND FLAGS: a library under the name that the binary asks for, its symbols in a version of that name.
library() {
  local name=$1 pattern=$2
  shift 2
  stubs "$name" "$pattern"
  echo "$name { global: *; };" > "$work/$name.map"
  "$compiler" "${flags[@]}" "-Wl,-soname,$name" "-Wl,--version-script=$work/$name.map" -Wl,--no-undefined-version -o "$folder/$name" "$work/$name-stubs.cpp" "$@" -ldl -lpthread
}

stubs libcuda.so.1 '^cu[A-Z]'
"$compiler" "${flags[@]}" "${checks[@]}" -DMAQAM_EMULATED -I../include -I../../../crates/engine/src/ops/cuda/kernels -Wl,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" "$work/libcuda.so.1-stubs.cpp" \
  driver.cpp ../emulated.cpp -ldl -lpthread
library libcublasLt.so.13 '^cublasLt' -O3 blas.cpp "$folder/libcuda.so.1"
library libcublas.so.13 '^cublas[A-KM-Z]' -DMAQAM_CUBLAS handles.cpp
library libcurand.so.10 '^curand' handles.cpp
# The runtime and the compiler of the toolkit, where the binary was linked with them.
for name in $(readelf -d "${binaries[@]}" | grep NEEDED | grep -oE 'lib(cudart|nvrtc)\.so[.0-9]*' | sort -u || true); do
  case $name in
    libcudart*) library "$name" '^(__)?cuda' ;;
    libnvrtc*) library "$name" '^nvrtc' ;;
  esac
done
