"""Scores a closed set of words by likelihood: which of the words does a model find most likely for each clip?

    python curricula/real-base/closed_set.py write --rows data/real-base/words-dev.jsonl --limit 60 --out candidates.jsonl
    maqam score --model data/models/real-base --adapter runs/real-base-a-align/best --data candidates.jsonl --out losses.jsonl
    python curricula/real-base/closed_set.py read --rows data/real-base/words-dev.jsonl --losses losses.jsonl

`write` makes a row for each clip and each different text of ROWS, with the instruction of prompts/asr.yaml; `--limit N` takes the first N
clips. `read` takes the text with the smallest sum of losses over its tokens, the end included, and prints the accuracy
with a Wilson interval over clips. The interval does not know that clips share speakers. Needs Python 3.9 and no packages.
"""

import argparse
import json
from pathlib import Path

INSTRUCTION = "Transcribe the speech."


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(given):
    rows = lines(given.rows)
    texts = sorted({row["text"] for row in rows})
    chosen = rows[: given.limit or len(rows)]
    with open(given.out, "w", encoding="utf-8") as out:
        for row in chosen:
            for place, text in enumerate(texts):
                turns = [{"role": "user", "content": f"<audio>{INSTRUCTION}"}, {"role": "assistant", "content": text}]
                candidate = {"id": f"{row['id']}#{place}", "audio": row["audio"], "messages": turns}
                out.write(json.dumps(candidate, ensure_ascii=False) + "\n")
    print(f"{given.out}: {len(chosen)} clips, {len(texts)} texts")


def read(given):
    rows = lines(given.rows)
    texts = sorted({row["text"] for row in rows})
    truth = {row["id"]: row["text"] for row in rows}
    best = {}
    for found in lines(given.losses):
        clip, place = found["id"].rsplit("#", 1)
        nats = found["loss"] * found["num_target_tokens"]
        best[clip] = min(best.get(clip, (float("inf"), "")), (nats, texts[int(place)]))
    n = len(best)
    p = sum(text == truth[clip] for clip, (_, text) in best.items()) / n
    z = 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    print(f"{100 * p:.1f} % of {n} clips, {100 * (middle - half):.1f} to {100 * (middle + half):.1f}; chance {100 / len(texts):.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    writes = commands.add_parser("write")
    writes.add_argument("--rows", type=Path, required=True)
    writes.add_argument("--limit", type=int, default=0)
    writes.add_argument("--out", type=Path, required=True)
    writes.set_defaults(run=write)
    reads = commands.add_parser("read")
    reads.add_argument("--rows", type=Path, required=True)
    reads.add_argument("--losses", type=Path, required=True)
    reads.set_defaults(run=read)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
