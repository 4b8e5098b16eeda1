# Sourced by pack.sh and .ci/cuda, in the root of the repository, before they build programs with the feature `cuda`.
#
# candle links its kernels for quantised GGUF weights, 32 MB in each program, and maqam runs none of them. Here
# functions that end the program replace them, in a library of the same name that the linker finds first. A build
# with this RUSTFLAGS shares nothing with a build without it.
stand_ins=$(realpath -m "${CARGO_TARGET_DIR:-target}")/pack-stand-ins
mkdir -p "$stand_ins"
kernels=$(cargo metadata --format-version 1 --features cuda | grep -o '"manifest_path":"[^"]*/candle-kernels-[^"]*"' | cut -d '"' -f 4)
{
  echo '#include <stdio.h>'
  echo '#include <stdlib.h>'
  grep -oE 'pub fn [A-Za-z0-9_]+' "$(dirname "$kernels")/src/ffi.rs" | sort -u | awk '{
    printf "void %s(void) { fputs(\"%s is not in this program\\n\", stderr); abort(); }\n", $3, $3 }'
} > "$stand_ins/stand-ins.c"
${CC:-cc} -O2 -fPIC -c -o "$stand_ins/stand-ins.o" "$stand_ins/stand-ins.c"
rm -f "$stand_ins/libmoe.a"
ar rcsD "$stand_ins/libmoe.a" "$stand_ins/stand-ins.o"
export RUSTFLAGS="${RUSTFLAGS:-} -L native=$stand_ins"
