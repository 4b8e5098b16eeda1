"""Loads a data set of `maqam build` with Python libraries, and compares every row with `manifest.jsonl`.

    python tests/reference/load_build.py datasets/NAME

`datasets` reads the folder as a user would (`load_dataset(FOLDER)`), with the features that the dataset card declares, and decodes every recording.
`lhotse` reads `shar/`, if `publish.formats` has `shar`. The script prints a summary, and fails on the first row that differs.

Ran with datasets 5.2.0, lhotse 1.33.0 and soundfile 0.14.0.
"""

import io
import json
import sys
from pathlib import Path

import soundfile as sf

RATE = 16_000


def samples_of(file):
    samples, rate = sf.read(io.BytesIO(file), dtype="int16")
    assert rate == RATE, rate
    return samples


def assert_same(what, found, expected):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


def hugging_face(folder, manifest):
    from datasets import Audio, Value, load_dataset

    loaded = load_dataset(str(folder))
    assert_same("splits", {name: len(rows) for name, rows in loaded.items()}, counts(manifest))
    for name, rows in loaded.items():
        features = rows.features
        assert isinstance(features["audio"], Audio) and features["audio"].sampling_rate == RATE, features["audio"]
        assert features["transcription"] == Value("string") and features["summary"] == Value("string"), features
        for row in rows.cast_column("audio", Audio(decode=False)):
            line = manifest[row["id"]]
            assert_same(row["id"], row["transcription"], line["text"])
            assert_same(row["id"], row["summary"], line["summary"])
            assert_same(row["id"], (row["speaker"], name, row["duration"]), (line["speaker"], line["split"], line["duration"]))
            samples = samples_of(row["audio"]["bytes"])
            assert (samples == samples_of((folder / line["audio"]).read_bytes())).all(), row["id"]
            assert abs(len(samples) / RATE - row["duration"]) <= 1e-3, row["id"]
            starts, ends = row["sentence_start_s"], row["sentence_end_s"]
            assert len(starts) == len(ends) == len(row["sentences"]), row["id"]
            # Sentences follow each other inside the recording.
            times = [time for pair in zip(starts, ends) for time in pair]
            assert times == sorted(times) and times[-1] <= row["duration"] + 1e-3, row["id"]
        print(f"datasets: {name}, {len(rows)} rows, {sum(rows['duration']):.1f} s; features {', '.join(features)}")


def lhotse(folder, manifest):
    from lhotse import CutSet, validate

    for split, expected in counts(manifest).items():
        num = 0
        for cut in CutSet.from_shar(in_dir=folder / "shar" / split):
            validate(cut)
            line = manifest[cut.id]
            assert_same(cut.id, (cut.supervisions[0].text, split), (line["text"], line["split"]))
            assert cut.load_audio().shape[1] == len(samples_of((folder / line["audio"]).read_bytes())), cut.id
            num += 1
        assert_same(f"cuts of {split}", num, expected)
        print(f"lhotse: {split}, {num} cuts")


def counts(manifest):
    found = {}
    for line in manifest.values():
        found[line["split"]] = found.get(line["split"], 0) + 1
    return found


def main():
    folder = Path(sys.argv[1])
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    manifest = {line["id"]: line for line in map(json.loads, lines)}
    hugging_face(folder, manifest)
    if (folder / "shar").is_dir():
        lhotse(folder, manifest)


if __name__ == "__main__":
    main()
