"""Writes the manifests that the recipes of this folder read, from data sets in maqam's format.

    python curricula/real-base/rows.py --words DIR [--verses DIR] [--intensity DIR] [--news DIR] [--out data/real-base]

Each DIR has train.jsonl and dev.jsonl (or train.jsonl.gz), whose rows name their audio relative to it:

    --words      single words of unseen speakers: id, audio, text, speaker       -> task asr
    --verses     recited sentences: id, audio, text, speaker                     -> task asr
    --intensity  labels low, neutral, high: id, audio, label, speaker            -> task intensity
    --news       documents: id, abstract and text, without audio                 -> task summarization, the text cut to 80 words

Writes OUT/NAME-train.jsonl and OUT/NAME-dev.jsonl, with absolute paths of the audio, and from the words OUT/overfit.jsonl: 16 rows
with 16 different words, each of another speaker where there is one. Needs Python 3.9 and no packages. Writes the same bytes each time.
"""

import argparse
import gzip
import hashlib
import json
from pathlib import Path

NUM_OVERFIT = 16
NEWS_WORDS = 80


def rows(folder, split):
    for name, opened in ((f"{split}.jsonl", open), (f"{split}.jsonl.gz", gzip.open)):
        if (folder / name).is_file():
            with opened(folder / name, "rt", encoding="utf-8") as lines:
                return [json.loads(line) for line in lines]
    raise SystemExit(f"{folder}: neither {split}.jsonl nor {split}.jsonl.gz")


def spoken(row, folder, task, field):
    # Without `duration`: that of an MP3 file may differ from the samples that it decodes to.
    kept = {key: row[key] for key in ("id", "language", "speaker", "group") if key in row}
    return {**kept, "audio": str((folder / row["audio"]).resolve()), "task": task, field: row[field]}


def written(row):
    words = row["text"].split()
    return {"id": row["id"], "task": "summarization", "language": "ar", "text": " ".join(words[:NEWS_WORDS]), "summary": row["abstract"]}


def overfit(train):
    """The first row of each word, of the speaker that has the fewest so far."""
    by_word = {}
    for row in train:
        by_word.setdefault(row["text"], []).append(row)
    chosen, taken = [], {}
    for word in sorted(by_word)[:NUM_OVERFIT]:
        row = min(by_word[word], key=lambda row: (taken.get(row.get("speaker"), 0), row["id"]))
        taken[row.get("speaker")] = taken.get(row.get("speaker"), 0) + 1
        chosen.append(row)
    if len(chosen) < NUM_OVERFIT:
        raise SystemExit(f"--words: {len(chosen)} different words, {NUM_OVERFIT} are needed")
    return chosen


def write(path, found):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    print(f"{path}: {len(found)} rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("words", "verses", "intensity", "news"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("data/real-base"), metavar="DIR")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in ("words", "verses", "intensity", "news"):
        folder = getattr(given, name)
        if folder is None:
            continue
        for split in ("train", "dev"):
            found = rows(folder, split)
            if name == "news":
                found = [written(row) for row in found]
            elif name == "intensity":
                found = [spoken(row, folder, "intensity", "label") for row in found]
            else:
                found = [spoken(row, folder, "asr", "text") for row in found]
            # A suite's `limit` takes rows from the top, so they stand in the order of a hash.
            found.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
            write(given.out / f"{name}-{split}.jsonl", found)
            if name == "words" and split == "train":
                write(given.out / "overfit.jsonl", overfit(found))


if __name__ == "__main__":
    main()
