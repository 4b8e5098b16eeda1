"""Takes few and unevenly distributed rows from a large sample.

    python data/sample/make.py --scale 4 --out data/large
    python docs/experiments/schedules/skew.py data/large         # needs nothing but Python 3.10

Writes data/large/skewed/{asr,summarization,dialect,emotion}-{train,dev}.jsonl. Of 2,560 training clips all are transcribed, half have a summary, a quarter a
dialect and an eighth an emotion; both label sets are uneven (below). Dev is a part of the sample's own dev set, three sentences per dialect, so that a run may
evaluate often; the sample's whole test set is the test. Which rows stay follows from a hash of their ids.
"""

import hashlib
import json
import sys
from pathlib import Path

# Rows of each label that are kept: half of them one label, the rarest a twentieth (dialects) and a thirteenth (emotions).
DIALECTS = {"MSA": 320, "EGY": 160, "GLF": 80, "LAV": 48, "NOR": 32}
EMOTIONS = {"neutral": 160, "happy": 80, "angry": 56, "sad": 24}
DEV_SENTENCES = ("000", "001", "002")


def rank(purpose: str, row: dict) -> str:
    return hashlib.sha256(f"{purpose} {row['id']}".encode()).hexdigest()


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> None:
    for row in rows:
        row["audio"] = f"../{row['audio']}"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def by_label(rows: list[dict], counts: dict[str, int], purpose: str) -> list[dict]:
    kept = []
    for label, count in counts.items():
        of_label = sorted((row for row in rows if row["label"] == label), key=lambda row: rank(purpose, row))
        assert len(of_label) >= count, f"{label}: {len(of_label)} rows, {count} wanted"
        kept += of_label[:count]
    return sorted(kept, key=lambda row: row["id"])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    out = source / "skewed"
    out.mkdir(exist_ok=True)
    write(out / "asr-train.jsonl", read(source / "asr-train.jsonl"))
    summaries = read(source / "summarization-train.jsonl")
    write(out / "summarization-train.jsonl", sorted(sorted(summaries, key=lambda row: rank("summary", row))[: len(summaries) // 2], key=lambda row: row["id"]))
    write(out / "dialect-train.jsonl", by_label(read(source / "dialect-train.jsonl"), DIALECTS, "dialect"))
    write(out / "emotion-train.jsonl", by_label(read(source / "emotion-train.jsonl"), EMOTIONS, "emotion"))
    for task in ("asr", "summarization", "dialect", "emotion"):
        write(out / f"{task}-dev.jsonl", [row for row in read(source / f"{task}-dev.jsonl") if row["group"].endswith(DEV_SENTENCES)])


if __name__ == "__main__":
    main()
