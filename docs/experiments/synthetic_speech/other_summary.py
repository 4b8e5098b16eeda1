"""Answers a split of a data set with another document's summary, for `maqam metrics --predictions`.

    python docs/experiments/synthetic_speech/other_summary.py datasets/NAME/manifest.jsonl dev > other.jsonl

Each row gets the summary of the next one in the split. Needs nothing but Python.
"""

import json
import sys
from pathlib import Path

lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
rows = [row for row in map(json.loads, lines) if row["split"] == sys.argv[2]]
for row, other in zip(rows, rows[1:] + rows[:1]):
    print(json.dumps({"id": row["id"], "prediction": other["summary"], "reference": row["summary"]}, ensure_ascii=False))
