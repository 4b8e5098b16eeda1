#!/usr/bin/env bash
# Checks and measures maqam, built with the feature `cuda`, on the GPU of this machine.
#
#   check.sh OUT [--pack FOLDER] [--second [RESULTS]] [--tiny | --dry-run]
#
# OUT is the folder for results.tgz, results.jsonl and report.md. check.py in this folder does the work
# and documents the options. It is a Python program, because the machine has python3 for PyTorch, and a
# shell cannot abandon a process that hangs in a driver call. Without python3 this script runs only the
# most important parts, and writes no report.md.
#
# CHECK_BUDGET_S: seconds for everything, by default 460, with --second 180. Deadlines scale with it.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' > /dev/null 2>&1; then
  exec python3 "$here/check.py" "$@"
fi

echo "no python3 of 3.8 or newer: the least that a shell can do" >&2
out=
pack=$here
device=(--device cuda --shape 7b)
steps=12
while [ $# -gt 0 ]; do
  case $1 in
    --pack) pack=${2:?a folder}; shift ;;
    --tiny) device=(--device cuda --shape tiny --clips 2); steps=2 ;;
    --dry-run) device=(--device cpu --shape tiny --clips 1); steps=1 ;;
    --second) echo "--second needs python3" >&2; exit 2 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
if [ -z "$out" ]; then
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
pack=$(cd "$pack" && pwd) || exit 1
work=$(mktemp -d)
mkdir "$work/logs"
results=$work/logs/results.jsonl
: > "$results"
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${CUDA_HOME:+$CUDA_HOME/lib64:}/usr/local/cuda/lib64
export CARGO_MANIFEST_DIR=$pack
budget=${CHECK_BUDGET_S:-460}
failed=0

save() {
  tar -C "$work/logs" -czf "$out/results.tgz.new" . && mv "$out/results.tgz.new" "$out/results.tgz"
  cp "$results" "$out/results.jsonl"
}
trap save EXIT
trap 'exit 143' TERM INT HUP

if [ -f "$pack/programs.tar.xz" ]; then
  mkdir "$work/programs"
  tar -C "$work/programs" -xJf "$pack/programs.tar.xz" || echo "programs.tar.xz cannot be unpacked: that needs xz" >&2
fi

# program NAME: the path of a program, in the pack or unpacked from it.
program() {
  local place
  for place in "$pack/programs/$1" "$pack/$1" "$work/programs/$1"; do
    if [ -x "$place" ]; then echo "$place"; return; fi
  done
  echo "$pack/$1"
}

# part NAME SECONDS COMMAND...: runs the command with this limit, and writes a line of results. A process that
# still runs 3 s after it was killed is abandoned.
part() {
  local name=$1 most=$(($2 * budget / 460)) left=$((budget - SECONDS - 5)) begin=$SECONDS rc found
  shift 2
  if [ "$left" -lt "$most" ]; then most=$left; fi
  if [ "$most" -lt 2 ]; then
    echo "{\"part\": \"$name\", \"state\": \"no time\", \"rc\": null, \"seconds\": 0, \"found\": null}" >> "$results"
    return
  fi
  (
    timeout --kill-after=2 "$most" "$@" > "$work/logs/$name.out" 2> "$work/logs/$name.log" < /dev/null
    echo $? > "$work/$name.rc"
  ) &
  while [ ! -s "$work/$name.rc" ] && [ $((SECONDS - begin)) -lt $((most + 5)) ]; do sleep 0.1; done
  rc=$(cat "$work/$name.rc" 2> /dev/null || echo null)
  [ "$rc" = 0 ] || failed=1
  found=$(grep -E '^\{.*\}$' "$work/logs/$name.out" | tail -n 1)
  local state=failed
  case $rc in 0) state=passed ;; 124 | 137) state="too slow" ;; null) state=stuck ;; esac
  echo "{\"part\": \"$name\", \"state\": \"$state\", \"rc\": $rc, \"seconds\": $((SECONDS - begin)), \"found\": ${found:-null}}" >> "$results"
  echo "$name: $state after $((SECONDS - begin)) s"
  save
}

bench=$(program bench)
part smi-begin 10 nvidia-smi -q
part smoke 60 "$bench" train --layers 1 --warm-up 0 --json "${device[@]}" --steps 1
case " ${device[*]} " in
  *" 7b "*) part self-check 90 "$bench" check --device cuda; part compare 60 "$bench" compare --device cuda ;;
  *) part self-check 90 "$bench" check --tiny "${device[@]:0:2}"; part compare 60 "$bench" compare --tiny "${device[@]:0:2}" ;;
esac
for test in cuda_ops cuda_train; do
  path=$(program $test)
  if [ -x "$path" ]; then part "tests-$test" 75 "$path" --test-threads 1; fi
done
for timing in asr,bf16,all,8192 mix,bf16,norms,16384 ssum,bf16,norms,16384 ssum,bf16,layer,8192 asr,fp8,norms,8192; do
  IFS=, read -r work_name precision save_name tokens <<< "$timing"
  part "bench-$work_name-$precision-$save_name-$tokens" 60 "$bench" train --work "$work_name" --precision "$precision" \
    --save "$save_name" --pack-tokens "$tokens" --json --steps "$steps" "${device[@]}"
done
part smi-end 10 nvidia-smi -q
exit "$failed"
