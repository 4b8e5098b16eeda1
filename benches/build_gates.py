"""Detection and false rejection of the checks of `maqam build` for speech, on recordings with known faults.

    python benches/build_gates.py FOLDER --documents documents.jsonl [--maqam target/release/maqam] [--rows 870] [--sound N] [--whisper DIR --floor CER]

Every row is one sentence of a document (fields `document` and `summary`) in Arabic letters, and espeak-ng speaks it. Every tenth row, in the order of
a hash, gets one of five faults, each as often as the others:

    swapped          the sentence of another row, of nearly the same length, is spoken
    halved           the recording ends in its middle
    silent           every sample is zero
    doubled          the recording comes twice
    wrong language   an English text with as many letters is spoken by the English voice

One build runs for each check, with the bounds of all other checks as wide as they go. The builds share the cache, so each sentence is spoken once.
FOLDER gets the recipes, the data sets and `gates.json`. The table is printed as Markdown: rows with the fault that were rejected, of all such rows.

--sound keeps only so many rows without a fault, the first in the order of the hash, and all rows with one: a recogniser takes seconds for each row.
With --whisper, the folder of a multilingual Whisper, the checks that need a recogniser run too. --floor is its character error rate on real speech.

Needs espeak-ng and Python 3.10.
"""

import argparse
import hashlib
import json
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

FAULTS = ["swapped", "halved", "silent", "doubled", "wrong_language"]
VOICES = ["ar+m1", "ar+m3", "ar+f2", "ar+f4"]
# Arabic letters, diacritics and simple marks.
PLAIN = re.compile(r"[\u0600-\u0659\u0670-\u06ff\s.,،؛:!؟?\"()-]+")
# A mark after which maqam begins another sentence.
END_WITHIN = re.compile(r"[.!?؟…][.!?؟…\"'»”’)\]“]*\s")
SHORTEST, LONGEST, FEWEST_WORDS = 40, 250, 6  # Characters, characters, words.
ENGLISH = (
    "the committee said on monday that the new rules will come into force before the end of the year and that smaller firms "
    "would be given more time to prepare for them while the largest ones must report at once to the office in the capital "
)
# Bounds of `listen` that accept every recording.
WIDE = {
    "chars_per_s": [0.001, 1000],
    "rate_tolerance": 100,
    "max_silent": 1,
    "min_active": 0,
    "max_pause_s": 1000,
    "max_clipped": 1,
    "loudness_lufs": [-200, 100],
}


def letters(text):
    """Letters of a text without tatweel, which maqam removes."""
    return "".join(c for c in text if c.isalpha() and c != "ـ")


def text_hash(text):
    """The hash of a text's letters: the speech engine gets the text with other spaces."""
    return hashlib.sha256(letters(text).encode()).hexdigest()


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def speak(text, voice):
    """Sampling rate and samples of espeak-ng, 16 bits."""
    command = ["espeak-ng", "-v", voice, "-z", "--stdin", "--stdout"]
    spoken = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    rate = struct.unpack_from("<I", spoken, 24)[0]
    return rate, spoken[spoken.index(b"data") + 8 :]


def english(num_letters):
    """An English text with so many letters."""
    text = ENGLISH * (num_letters // len(letters(ENGLISH)) + 1)
    end = next(i for i in range(len(text)) if len(letters(text[:i])) >= num_letters)
    return text[:end]


def engine(folder, voice):
    """The speech engine: reads a sentence and writes its recording, with the fault that the sentence is to have."""
    text = sys.stdin.read()
    fault, other = json.loads((Path(folder) / "faults.json").read_text(encoding="utf-8")).get(text_hash(text), (None, None))
    if fault == "swapped":
        text = other
    elif fault == "wrong_language":
        text, voice = english(len(letters(text))), "en" + voice[2:]
    rate, samples = speak(text, voice)
    if fault == "halved":
        samples = samples[: len(samples) // 4 * 2]
    elif fault == "silent":
        samples = bytes(len(samples))
    elif fault == "doubled":
        samples += samples
    head = b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    sys.stdout.buffer.write(head + b"data" + struct.pack("<I", len(samples)) + samples)


def sentences(path, most):
    """Rows of one sentence each, in the order of their hash."""
    rows = {}
    for document in read_rows(path):
        for text in re.split(r"(?<=[.!?؟])\s+", document["document"]):
            text = text.strip()
            is_whole = text.endswith((".", "!", "?", "؟")) and not END_WITHIN.search(text)
            is_plain = PLAIN.fullmatch(text) and not re.search(r"[\d\u0660-\u0669]", text)
            if is_whole and is_plain and SHORTEST <= len(text) <= LONGEST and len(text.split()) >= FEWEST_WORDS:
                rows.setdefault(text_hash(text), {"text": text, "summary": document["summary"]})
    chosen = [rows[key] for key in sorted(rows)][:most]
    return [{"id": f"r{i}", **row} for i, row in enumerate(chosen)]


def inject(rows):
    """Fault of every tenth row, and the text that is spoken if it is swapped."""
    sound = [row for i, row in enumerate(rows) if i % 10]
    faults = {}
    for place, row in enumerate(rows[::10]):
        # The nearest length, so that the speed of the recording does not betray it.
        other = min(sound, key=lambda other: abs(len(other["text"]) - len(row["text"])))
        faults[text_hash(row["text"])] = (FAULTS[place % len(FAULTS)], other["text"])
    return faults


def checks(whisper, floor):
    """Settings of `listen` for each line of the table."""
    signal = {key: WIDE[key] for key in ["chars_per_s", "rate_tolerance"]}
    listed = {
        "signal: silence, activity, pauses, loudness": signal,
        "speed, `rate_tolerance: 0.5`": {**WIDE, "rate_tolerance": 0.5},
        "speed, `rate_tolerance: 0.25`": {**WIDE, "rate_tolerance": 0.25},
        "signal and speed, defaults": {},
    }
    if whisper:
        listening = {"transcribe": "whisper", "model": whisper, "floor_cer": floor}
        for over in [0.25, 0.5]:
            listed[f"transcript, `over_floor: {over}`"] = {**WIDE, **listening, "over_floor": over}
        listed["`match: 8`"] = {**WIDE, **listening, "over_floor": 10, "match": 8}
        listed["signal, speed and `match: 8`"] = {**listening, "over_floor": 10, "match": 8}
    return listed


def build(maqam, folder, number, listen):
    """Rows that reached `listen` in a build, and the ids of those that it rejected."""
    recipe = {
        "name": f"gates-{number}",
        "collect": {"from": str(folder / "rows.jsonl"), "summary": "summary"},
        "clean": {"near_duplicates": 1},
        "verify": {"reject": False},
        "speak": {"engine": "command", "command": [str(folder / "engine"), "{voice}"], "voices": VOICES, "verbalise": False},
        "listen": listen,
        "publish": {"review_rows": 1},
    }
    path = folder / f"gates-{number}.yaml"
    path.write_text("# A recipe of build_gates.py.\n" + json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
    subprocess.run([maqam, "build", str(path), "--out", str(folder / "datasets"), "--device", "cpu"], check=True)
    states = read_rows(folder / f"datasets/gates-{number}/rows.jsonl")
    heard = [row["id"] for row in states if row["state"] == "published" or row.get("step") == "listen"]
    return heard, {row["id"] for row in states if row["state"] == "rejected"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", required=True)
    parser.add_argument("--maqam", default="target/release/maqam")
    parser.add_argument("--rows", type=int, default=870)
    parser.add_argument("--sound", type=int)
    parser.add_argument("--whisper")
    parser.add_argument("--floor", type=float)
    arguments = parser.parse_args()
    if arguments.whisper and arguments.floor is None:
        parser.error("--whisper needs --floor, its character error rate on real speech")

    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = sentences(arguments.documents, arguments.rows)
    faults = inject(rows)
    if arguments.sound is not None:
        sound = [row["id"] for row in rows if text_hash(row["text"]) not in faults][: arguments.sound]
        rows = [row for row in rows if text_hash(row["text"]) in faults or row["id"] in sound]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "faults.json").write_text(json.dumps(faults, ensure_ascii=False), encoding="utf-8")
    script = folder / "engine"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} --speak {folder} \"$1\"\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)

    fault_of = {row["id"]: faults.get(text_hash(row["text"]), ("none", ""))[0] for row in rows}
    whisper = arguments.whisper and str(Path(arguments.whisper).resolve())
    table = {}
    for number, (name, listen) in enumerate(checks(whisper, arguments.floor).items()):
        heard, rejected = build(arguments.maqam, folder, number, listen)
        counts = {}
        for fault in [*FAULTS, "none"]:
            ids = [row for row in heard if fault_of[row] == fault]
            counts[fault] = [sum(row in rejected for row in ids), len(ids)]
        table[name] = counts
        (folder / "gates.json").write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")

    print("| check | " + " | ".join(fault.replace("_", " ") for fault in FAULTS) + " | falsely rejected |")
    print("|---" * (len(FAULTS) + 2) + "|")
    for name, counts in table.items():
        print(f"| {name} | " + " | ".join(f"{counts[fault][0]}/{counts[fault][1]}" for fault in [*FAULTS, "none"]) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--speak"]:
        engine(sys.argv[2], sys.argv[3])
    else:
        main()
