"""Character error rates of a Whisper on synthetic and on real speech, in the table of docs/experiments/synthetic_speech.md.

    python docs/experiments/synthetic_speech/recognise.py FOLDER --whisper DIR [--maqam target/release/maqam] [--rows 60]
        --documents documents.jsonl             sentences of so many documents, without diacritics
        --diacritiser NAME=PROGRAM              the same sentences with diacritics of a program; may be given several times
        --verses verses.jsonl                   texts with and without diacritics (`text_diacritised`, `text`)
        --recordings NAME=MANIFEST              real recordings with their transcripts; may be given several times

Every condition is a build of `maqam build` whose checks accept every recording. A sentence has 40 to 250 characters and is in Arabic letters, and
no two are from one document. The rate of a recording is that of `listen`: after the normaliser `arabic-dialect`, which removes diacritics. The
interval resamples recordings. FOLDER gets the recipes, the data sets and `rates.json`.

Needs espeak-ng and Python 3.10.
"""

import argparse
import json
import random
import re
import stat
import statistics
import subprocess
import sys
from pathlib import Path

RESAMPLES = 10_000
# Arabic letters, diacritics and simple marks.
PLAIN = re.compile(r"[\u0600-\u0659\u0670-\u06ff\s.,،؛:!؟?\"()-]+")
# A mark after which maqam begins another sentence.
END_WITHIN = re.compile(r"[.!?؟…][.!?؟…\"'»”’)\]“]*\s")
SHORTEST, LONGEST = 40, 250  # Characters of a sentence.
FEWEST_WORDS = 3  # Words of a verse and of a transcript.
WIDE = {
    "chars_per_s": [0.001, 1000],
    "rate_tolerance": 100,
    "max_silent": 1,
    "min_active": 0,
    "max_pause_s": 1000,
    "max_clipped": 1,
    "loudness_lufs": [-200, 100],
    "over_floor": 10,
    "floor_cer": 0,
}


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def letters(text):
    """Letters of a text without tatweel, which maqam removes."""
    return "".join(c for c in text if c.isalpha() and c != "ـ")


def first_sentences(path, most):
    """The first sentence of each document that fits."""
    rows = []
    for document in read_rows(path):
        for text in re.split(r"(?<=[.!?؟])\s+", document["document"]):
            text = text.strip()
            is_whole = text.endswith((".", "!", "?", "؟")) and not END_WITHIN.search(text)
            is_plain = PLAIN.fullmatch(text) and not re.search(r"[\d\u0660-\u0669]", text)
            if is_whole and is_plain and SHORTEST <= len(text) <= LONGEST:
                rows.append({"id": document["id"], "text": text})
                break
    return rows[:most]


def verses(path, field, most):
    """One row for each different verse."""
    rows = {}
    for row in read_rows(path):
        if len(row["text"].split()) >= FEWEST_WORDS:
            rows.setdefault(row["text"], {"id": row["group"], "text": row[field]})
    return list(rows.values())[:most]


def recordings(path, most):
    """Rows of a manifest, and the file of each text."""
    rows, files = [], {}
    for row in read_rows(path):
        key = letters(row["text"])
        if len(row["text"].split()) >= FEWEST_WORDS and key not in files:
            files[key] = str((Path(path).parent / row["audio"]).resolve())
            rows.append({"id": row["id"], "text": row["text"]})
    return rows[:most], files


def play(folder):
    """The speech engine of real recordings: writes the file of the text."""
    files = json.loads((Path(folder) / "files.json").read_text(encoding="utf-8"))
    # The sentence from which maqam learns the speaking rate was not recorded. Any recording will do, because the speed is not checked here.
    file = files.get(letters(sys.stdin.read()), next(iter(files.values())))
    sys.stdout.buffer.write(Path(file).read_bytes())


class Experiment:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = arguments.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rates = {}

    def measure(self, name, rows, speak):
        """Builds one condition, and prints its line of the table."""
        stem = f"condition-{len(self.rates)}"
        source = self.folder / f"{stem}.jsonl"
        write_rows(source, [{**row, "summary": row["text"]} for row in rows])
        recipe = {
            "name": stem,
            "collect": {"from": str(source), "summary": "summary", "min_words": 1},
            "clean": {"near_duplicates": 1},
            "verify": {"reject": False},
            "speak": {"verbalise": False, **speak},
            "listen": {**WIDE, "transcribe": "whisper", "model": str(Path(self.arguments.whisper).resolve())},
            "publish": {"review_rows": 1},
        }
        path = self.folder / f"{stem}.yaml"
        path.write_text("# A recipe of recognise.py.\n" + json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
        command = [self.arguments.maqam, "build", str(path), "--out", str(self.folder / "datasets"), "--device", "cpu"]
        subprocess.run(command, check=True, stdout=sys.stderr)

        states = read_rows(self.folder / f"datasets/{stem}/rows.jsonl")
        rates = [row["listened"]["cer"] for row in states if row["state"] == "published"]
        loops = sum(row.get("reason") == "transcript_loop" for row in states)
        if len(rates) + loops != len(rows):
            sys.exit(f"{name}: {len(rows) - len(rates) - loops} rows were rejected for other reasons, see {stem}")
        draw = random.Random(0)
        means = sorted(statistics.fmean(draw.choices(rates, k=len(rates))) for _ in range(RESAMPLES))
        low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
        self.rates[name] = {"rates": rates, "loops": loops}
        (self.folder / "rates.json").write_text(json.dumps(self.rates, ensure_ascii=False), encoding="utf-8")
        print(
            f"| {name} | {len(rows)} | {statistics.fmean(rates):.2f} [{low:.2f}, {high:.2f}] | {statistics.median(rates):.2f} | {loops} |",
            flush=True,
        )


def named(text):
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write NAME=VALUE")
    return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--whisper", required=True)
    parser.add_argument("--maqam", default="target/release/maqam")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--documents")
    parser.add_argument("--diacritiser", type=named, action="append", default=[])
    parser.add_argument("--verses")
    parser.add_argument("--recordings", type=named, action="append", default=[])
    arguments = parser.parse_args()

    experiment = Experiment(arguments)
    print("| speech | recordings | mean CER [95 %] | median | loops |\n|---|---|---|---|---|")
    for name, manifest in arguments.recordings:
        rows, files = recordings(manifest, arguments.rows)
        folder = experiment.folder / f"real-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "files.json").write_text(json.dumps(files, ensure_ascii=False), encoding="utf-8")
        script = folder / "engine"
        script.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} --play {folder}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        speak = {"engine": "command", "command": [str(script)], "voices": ["real"], "max_chars": 100_000}
        experiment.measure(f"real, {name}", rows, speak)
    if arguments.documents:
        rows = first_sentences(arguments.documents, arguments.rows)
        experiment.measure("espeak-ng, news", rows, {})
        for name, program in arguments.diacritiser:
            experiment.measure(f"espeak-ng, news with diacritics of {name}", rows, {"diacritiser": [program]})
    if arguments.verses:
        experiment.measure("espeak-ng, verses", verses(arguments.verses, "text", arguments.rows), {})
        diacritised = verses(arguments.verses, "text_diacritised", arguments.rows)
        experiment.measure("espeak-ng, verses with their diacritics", diacritised, {})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        play(sys.argv[2])
    else:
        main()
