#!/usr/bin/env bash
# Checks and measures maqam, built with the feature `cuda`, on the card of this machine, in one call of at most eight minutes.
#
#   benches/gpu/check.sh PACK [OUT] [--dry-run]
#
# PACK: the archive that benches/gpu/pack.sh made, or a folder with its files: `bench`, and any tests `cuda_*`; a folder may have a whole
# `maqam` instead of `bench`. OUT: where results go, by default ./gpu-check. --dry-run goes through every line on a processor, with tiny
# shapes and any build.
# Builds nothing, downloads nothing, and changes no setting of the card. The driver's libcuda and the toolkit's libcublas, libcublasLt and
# libcurand come from this machine. Each part has a time of its own, and its failure stops nothing:
#   1. the machine: card, driver, clocks, libraries;
#   2. the tests on the card;
#   3. `bench train` in bfloat16, each work with several save policies, then fp8;
#   4. the peers (benches/peers/qwen_gpu.py) where python3 has torch, transformers and peft, with the time that is left.
# Leaves OUT/results.jsonl, one line a part; OUT/report.md, the table with targets beside what was found; OUT/*.log, all output.
#
# CHECK_BUDGET_S (default 460): seconds for everything. CHECK_STEPS (default 20): steps of a measurement.
set -uo pipefail

dry=false
places=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry=true ;;
    -*) echo "unknown option $argument" >&2; exit 2 ;;
    *) places+=("$argument") ;;
  esac
done
if [ ${#places[@]} -lt 1 ]; then
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
pack=${places[0]}
mkdir -p "${places[1]:-gpu-check}"
out=$(cd "${places[1]:-gpu-check}" && pwd)
results=$out/results.jsonl
: > "$results"

budget=${CHECK_BUDGET_S:-460}
steps=${CHECK_STEPS:-20}
left() { echo $((budget - SECONDS)); }

if [ -f "$pack" ]; then
  mkdir -p "$out/pack"
  tar -xf "$pack" -C "$out/pack" || exit 1
  pack=$out/pack
fi
pack=$(cd "$pack" && pwd)
if [ -x "$pack/bench" ]; then
  program=("$pack/bench")
elif [ -x "$pack/maqam" ]; then
  program=("$pack/maqam" bench)
else
  echo "neither a program $pack/bench nor $pack/maqam" >&2
  exit 2
fi

# The toolkit's libraries, wherever they lie: where a variable says, in the system, among Python's packages. For maqam alone: PyTorch
# brings its own.
libraries=${LD_LIBRARY_PATH:-}
for folder in ${CUDA_HOME:+"$CUDA_HOME/lib64" "$CUDA_HOME/lib"} /usr/local/cuda/lib64 /usr/local/nvidia/lib64 \
  $(python3 -c 'import site; print(*(f"{p}/nvidia/cu13/lib" for p in site.getsitepackages()))' 2> "$out/python.log"); do
  [ -d "$folder" ] && libraries=${libraries:+$libraries:}$folder
done
with_toolkit=(env "LD_LIBRARY_PATH=$libraries")

# A string as JSON.
quoted() { printf '"%s"' "$(tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"; }

# part NAME SECONDS COMMAND...: runs it, at most so long and no longer than there is time, and writes a line of results:
# its exit code (124: too slow; null: there was no time), seconds, the last line of JSON it printed, the end of its errors where it failed.
part() {
  local name=$1 most=$2
  shift 2
  # What does not end when asked to is killed 5 s later: they are part of the budget.
  local rest=$(( $(left) - 5 ))
  local allowed=$(( rest < most ? rest : most ))
  if [ "$allowed" -lt 5 ]; then
    echo "{\"part\": \"$name\", \"rc\": null, \"seconds\": 0, \"found\": null, \"error\": \"not run: no time left\"}" >> "$results"
    echo "$name: no time left"
    return
  fi
  local begin=$SECONDS rc=0 found error=null
  timeout --kill-after=5 "$allowed" "$@" > "$out/$name.out" 2> "$out/$name.log" || rc=$?
  found=$(grep -E '^\{.*\}$' "$out/$name.out" | tail -n 1)
  [ "$rc" -ne 0 ] && error=$(cat "$out/$name.out" "$out/$name.log" | tail -n 6 | quoted)
  echo "{\"part\": \"$name\", \"rc\": $rc, \"seconds\": $((SECONDS - begin)), \"found\": ${found:-null}, \"error\": $error}" >> "$results"
  echo "$name: exit $rc after $((SECONDS - begin)) s"
}

# 1. The machine.
machine() {
  local query=name,memory.total,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu
  local card
  card=$(nvidia-smi "--query-gpu=$query" --format=csv,noheader 2>&1)
  nvidia-smi >&2
  ldd "$1" >&2
  local missing
  missing=$(ldd "$1" | awk '/not found/ { printf "%s%s", between, $1; between = " " }')
  echo "{\"card\": $(printf '%s' "$card" | quoted), \"missing_libraries\": $(printf '%s' "$missing" | quoted), \"cores\": $(nproc)}"
}
export -f machine quoted
part machine 20 "${with_toolkit[@]}" bash -c 'machine "$@"' machine "${program[0]}"

# 2. The tests, told where fixtures and program are on this machine. A test that found no card says so and passes: here that is a fault.
tests() {
  "$1" --test-threads 1 --nocapture || return
  ! grep -q "NOT TESTED ON A CARD" "$2"
}
export -f tests
for test in "$pack"/cuda_*; do
  [ -x "$test" ] || continue
  name=tests-$(basename "$test")
  part "$name" 75 "${with_toolkit[@]}" "CARGO_MANIFEST_DIR=$repository" \
    bash -c 'tests "$@"' tests "$test" "$out/$name.log"
done

# 3. Training steps. The order is that of what one wants to know most, should time run out.
bench() {
  local work=$1 precision=$2 save=$3
  local command=("${with_toolkit[@]}" "${program[@]}" train --work "$work" --precision "$precision" --save "$save" --json)
  if $dry; then
    command+=(--device cpu --shape tiny --clips 1 --steps 1)
  else
    command+=(--device cuda --shape 7b --steps "$steps")
  fi
  part "bench-$work-$precision-$save" 60 "${command[@]}"
}
bench asr bf16 all
bench mix bf16 norms
bench ssum bf16 norms
bench ssum bf16 layer
bench asr bf16 norms
bench asr fp8 norms
bench mix bf16 all
bench ssum bf16 all
bench asr fp8 all
bench asr bf16 layer

# 4. The peers, each work's best first.
peers() {
  local work=$1
  shift
  local settings=(--work "$work" --json "$out/peers-$work.jsonl" --budget-s "$(( $(left) - 20 ))")
  for variant in "$@"; do settings+=(--variant "$variant"); done
  if $dry; then settings+=(--device cpu --shape tiny --clips 2 --layers 1 --steps 1); fi
  part "peers-$work" "$(left)" python3 "$repository/benches/peers/qwen_gpu.py" "${settings[@]}"
}
if python3 -c 'import torch, transformers, peft' 2> "$out/peers.log"; then
  if [ "$(left)" -gt 60 ] || $dry; then peers asr packed+liger+compile packed+compile packed+liger padded+checkpointing padded packed; fi
  if [ "$(left)" -gt 60 ]; then peers ssum packed+liger+checkpointing; fi
  if [ "$(left)" -gt 60 ]; then peers mix packed+liger; fi
else
  echo "no peers: python3 has not all of torch, transformers, peft"
fi

if command -v python3 >> "$out/python.log"; then
  python3 "$here/report.py" "$out" > "$out/report.md" && cat "$out/report.md"
else
  cat "$results"
fi
echo "$SECONDS s in all; everything is in $out"
