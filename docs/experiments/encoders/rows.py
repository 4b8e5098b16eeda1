"""Writes the manifests of the experiment in this folder, from public sets of Arabic speech.

    python docs/experiments/encoders/rows.py data/real          # needs nothing but Python 3.9

Expects SOURCE/{speech_commands,quran_read,baved,egyptian_read,adi5}/{train,dev}.jsonl, whose rows name their audio relative to them.
Writes data/encoders/NAME-{train,dev}.jsonl:

    words      speech_commands  40 words of one second                    text
    verses     quran_read       recited verses                            text
    intensity  baved            7 words at three intensities              label, text
    read       egyptian_read    read sentences                            text
    dialect    adi5             broadcasts of five dialects               label

An encoder is trained on all five without their texts and labels. Probes read words (the text is the class), intensity and dialect.
Speakers are named after their set, so that no two sets share one. Prints rows, speakers and hours.
"""

import json
import os
import sys
from pathlib import Path

SETS = {"words": "speech_commands", "verses": "quran_read", "intensity": "baved", "read": "egyptian_read", "dialect": "adi5"}
OUT = Path("data/encoders")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    OUT.mkdir(parents=True, exist_ok=True)
    total = {}
    for name, folder in SETS.items():
        for split in ("train", "dev"):
            lines = (source / folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            seconds = sum(row["duration"] for row in rows)
            total[split] = total.get(split, 0.0) + seconds
            written = []
            for row in rows:
                # Without `duration`: that of an MP3 file may differ from the samples that it decodes to.
                kept = {key: row[key] for key in ("id", "language", "text", "label") if key in row}
                kept["audio"] = os.path.relpath(source / folder / row["audio"], OUT)
                kept["speaker"] = f"{folder}-{row['speaker']}"
                written.append(json.dumps(kept, ensure_ascii=False) + "\n")
            path = OUT / f"{name}-{split}.jsonl"
            path.write_text("".join(written), encoding="utf-8")
            speakers = {row["speaker"] for row in rows}
            print(f"{path}: {len(rows)} rows, {len(speakers)} speakers, {seconds / 3600:.2f} h")
    for split, seconds in total.items():
        print(f"{split}: {seconds / 3600:.2f} h")


if __name__ == "__main__":
    main()
