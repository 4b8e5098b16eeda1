"""Divides real recordings of words by speaker into training, dev and test rows for the experiment beside this file.

    python docs/experiments/schedules/real/split.py data/real         # needs nothing but Python 3.10

Expects data/real/{speech_commands,baved}/{train,dev}.jsonl with `audio`, `text`, `speaker` and, in baved, `label`. Writes data/real/schedules/
{words,intensity}-{train,dev,test}.jsonl: training rows as they are, the sets' dev speakers divided in two, a third for evaluation during training, the rest for the
test. The words are those of both sets, the intensities baved's. Speakers alternate in the order of their amounts of speech, so both parts have speakers with much and with little.

If data/real/ntrex_ar/documents.jsonl exists, its news texts with their headlines become rows without audio: headlines-train.jsonl, for plumbing.yaml.
"""

import json
import sys
from collections import Counter
from pathlib import Path


def read(folder: Path, split: str) -> list[dict]:
    rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["audio"] = f"../{folder.name}/{row['audio']}"
        row["speaker"] = f"{folder.name}-{row['speaker']}"
    return rows


def divide(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    counts = Counter(row["speaker"] for row in rows)
    order = sorted(counts, key=lambda speaker: (-counts[speaker], speaker))
    dev = {speaker for place, speaker in enumerate(order) if place % 3 == 1}
    return [row for row in rows if row["speaker"] in dev], [row for row in rows if row["speaker"] not in dev]


def write(path: Path, rows: list[dict], keep: tuple[str, ...]) -> None:
    # Without `duration`: in some rows it is a tenth of a second less than the MP3 file has, which maqam refuses. It reads the length itself.
    fields = ("id", "audio", "language", "speaker", *keep)
    path.write_text("".join(json.dumps({key: row[key] for key in fields}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows, {len({row['speaker'] for row in rows})} speakers")


def headlines(source: Path, out: Path) -> None:
    documents = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [{"id": row["id"], "language": "ar", "text": row["document"], "summary": row["summary"], "group": row["doc"]} for row in documents]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{out}: {len(rows)} rows")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    out = source / "schedules"
    out.mkdir(exist_ok=True)
    words, intensity = source / "speech_commands", source / "baved"
    parts = {"train": (read(words, "train"), read(intensity, "train"))}
    (words_dev, words_test), (intensity_dev, intensity_test) = divide(read(words, "dev")), divide(read(intensity, "dev"))
    parts |= {"dev": (words_dev, intensity_dev), "test": (words_test, intensity_test)}
    for split, (of_words, of_intensity) in parts.items():
        write(out / f"words-{split}.jsonl", of_words + of_intensity, ("text",))
        write(out / f"intensity-{split}.jsonl", of_intensity, ("label",))
    documents = source / "ntrex_ar" / "documents.jsonl"
    if documents.is_file():
        headlines(documents, out / "headlines-train.jsonl")


if __name__ == "__main__":
    main()
