# Sourced by pack.sh and .ci/cuda, in the root of the repository, before they build programs with the feature `cuda`.
#
# candle compiles kernels for quantised GGUF weights: an hour on two cores, and 32 MB in each program. maqam runs none
# of them. candle's build therefore gets a compiler, in NVCC, that puts functions in their place which end the program.
. benches/gpu/nvcc.sh
stand_ins=$(realpath -m "${CARGO_TARGET_DIR:-target}")/pack-stand-ins
mkdir -p "$stand_ins/bin"
for part in include lib lib64 nvvm; do
  if [ -e "${nvcc%/bin/nvcc}/$part" ]; then ln -sfn "${nvcc%/bin/nvcc}/$part" "$stand_ins/$part"; fi
done
kernels=$(cargo metadata --format-version 1 --features cuda | grep -o '"manifest_path":"[^"]*/candle-kernels-[^"]*"' | cut -d '"' -f 4)
{
  echo '#include <stdio.h>'
  echo '#include <stdlib.h>'
  grep -oE 'pub fn [A-Za-z0-9_]+' "$(dirname "$kernels")/src/ffi.rs" | sort -u | awk '{
    printf "void %s(void) { fputs(\"%s is not in this program\\n\", stderr); abort(); }\n", $3, $3 }'
} > "$stand_ins/stand-ins.c"
# All functions stand in for one of the sources; the others become empty.
cat > "$stand_ins/bin/nvcc" << END
#!/usr/bin/env bash
instead=
for argument; do
  case \$argument in
    *moe_gguf.cu) instead=$stand_ins/stand-ins.c ;;
    *moe_*.cu | *mmvq_*.cu | *mmq_*.cu) instead=\${instead:-/dev/null} ;;
  esac
done
if [ -z "\$instead" ]; then exec "$nvcc" "\$@"; fi
while [ "\$1" != -o ]; do shift; done
exec ${CC:-cc} -O2 -fPIC -x c -c -o "\$2" "\$instead"
END
chmod +x "$stand_ins/bin/nvcc"
export NVCC=$stand_ins/bin/nvcc
