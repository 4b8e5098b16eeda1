#!/usr/bin/env bash
# Compares the output of two builds of maqam: a change that only moves code must not change a byte.
#
#   tests/goldens.sh OLD NEW [FOLDER]
#
# OLD, NEW: programs. FOLDER (default: a new temporary folder) keeps the output of both. Each program trains the quickstart and every
# schedule of curricula/sample for a few steps, plans them, scores, generates, embeds, evaluates, compares and reports. Then the
# outputs are compared. Left out, because they hold times: TensorBoard files and environment.json.
# Takes about five minutes for each program on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
old=$(realpath "${1:?the old program}")
new=$(realpath "${2:?the new program}")
folder=$(realpath -m "${3:-$(mktemp -d)}")

# run PROGRAM PLACE: everything one program writes, into PLACE.
run() {
  local program=$1 place=$2 recipe name
  mkdir -p "$place"
  ln -sfn "$PWD/data" "$place/data"
  ln -sfn "$PWD/eval" "$place/eval"
  ln -sfn "$PWD/prompts" "$place/prompts"
  mkdir -p "$place/recipes" "$place/out"
  for recipe in curricula/quickstart.yaml curricula/sample/*.yaml; do
    name=$(basename "$recipe" .yaml)
    sed -E 's/steps: [0-9]+/steps: 3/g; s/every: [0-9]+/every: 3/g; s/epochs: [0-9]+/steps: 3/g; s/block: [0-9]+/block: 3/g' \
      "$recipe" > "$place/recipes/$name.yaml"
    echo "$name" >&2
    (
      cd "$place"
      "$program" plan "recipes/$name.yaml" --picks "out/$name.picks.jsonl" > "out/$name.plan.txt"
      "$program" train "recipes/$name.yaml" > "out/$name.train.txt" 2> "out/$name.train.log"
    )
  done
  (
    cd "$place"
    local model=data/models/maqam-tiny
    head -n 8 data/sample/asr-test.jsonl | sed -E 's#"audio": ?"#&data/sample/#' > rows.jsonl
    "$program" features --data rows.jsonl --out out/features.safetensors > out/features.txt
    "$program" embed --model $model --data rows.jsonl --out out/embed.safetensors --pool mean > out/embed.txt
    "$program" score --model $model --task asr --data rows.jsonl --out out/score.jsonl > out/score.txt
    "$program" generate --model $model --task asr --data rows.jsonl --out out/generate.jsonl --max-new-tokens 12 > out/generate.txt
    "$program" metrics --task asr --predictions out/generate.jsonl --references rows.jsonl --json > out/metrics.json
    "$program" report runs/quickstart > out/report.txt
    "$program" compare runs/quickstart runs/uniform --out out/compare > out/compare.txt
  )
}

run "$old" "$folder/old"
run "$new" "$folder/new"
# Messages name seconds; log and files do not.
diff -r --no-dereference -x 'events.out.tfevents*' -x environment.json -x '*.train.txt' -x '*.train.log' "$folder/old" "$folder/new"
echo "the outputs of both programs are the same: $(find "$folder/new" -type f | wc -l) files"
