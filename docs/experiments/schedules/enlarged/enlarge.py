"""Makes the enlarged sample: the four tasks of data/sample in 50 voices, for the schedule experiment of this folder.

    python docs/experiments/schedules/enlarged/enlarge.py            # data/large/voices; needs espeak-ng, as data/sample/make.py does

| split | voices | clips | rows |
|---|---|---|---|
| train | the 8 training voices of data/sample | 2,560 | asr 2,560; summarization 1,280; dialect 640 and emotion 320 with uneven labels, as skew.py takes them |
| dev | 8 others | 160 | all four tasks, even labels; every voice has each pair of dialect and emotion once |
| test | 20 others | 400 | the same |
| base | the 14 voices of the small base model | 640 | all four tasks, even labels: what the two bases learn a little from |

Words, templates, emotions and synthesis are those of data/sample/make.py. So is the rule that no pair of a thing with its place or quality is in two splits. Clips are
FLAC, whose bytes do not depend on the run: a set that was made again on another machine with the same versions resumes the runs that were begun on the first one.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
sys.path[:0] = [str(ROOT / "data/sample"), str(HERE.parent)]

import make as sample  # noqa: E402  data/sample/make.py
import skew  # noqa: E402  ../skew.py
import soundfile  # noqa: E402

# Voice: espeak-ng variant, pitch (0-99), words per minute. voices.py says how the variants were chosen. No variant is in two splits.
VOICES = {
    "train": sample.VOICES["train"],
    "base": sample.VOICES["base"],
    "dev": {
        "v01": ("Annie", 54, 158), "v02": ("pablo", 42, 166), "v03": ("Nguyen", 38, 174), "v04": ("norbert", 46, 154),
        "v05": ("aunty", 50, 162), "v06": ("michel", 36, 170), "v07": ("grandpa", 44, 150), "v08": ("rob", 58, 178),
    },
    "test": {
        "t01": ("Alex", 40, 156), "t02": ("Marco", 48, 172), "t03": ("zac", 36, 160), "t04": ("Andy", 46, 164), "t05": ("anika", 55, 170),
        "t06": ("kaukovalta", 52, 152), "t07": ("shelby", 44, 176), "t08": ("Jacky", 38, 168), "t09": ("pedro", 50, 158), "t10": ("travis", 34, 166),
        "t11": ("iven", 56, 174), "t12": ("victor", 42, 162), "t13": ("boris", 47, 150), "t14": ("sandro", 39, 178), "t15": ("marcelo", 53, 160),
        "t16": ("grandma", 45, 154), "t17": ("antonio", 37, 170), "t18": ("quincy", 57, 164), "t19": ("ed", 41, 176), "t20": ("paul", 49, 156),
    },
}
# Sentences for each dialect. With as many as voices, or a multiple, every voice has each pair of dialect and emotion equally often.
SENTENCES = {"train": 128, "dev": 8, "test": 20, "base": 32}
# Numbers of sentences start here, so none is drawn as one of data/sample was.
FIRST_SENTENCE = 1000


def clips_of(split: str) -> list[tuple]:
    """Name, text, emotion, speaker and voice of every clip of a split."""
    voices = list(VOICES[split].items())
    clips = []
    for d, dialect in enumerate(sample.DIALECTS):
        for number in range(SENTENCES[split]):
            text = sample.sentence(dialect, FIRST_SENTENCE + number, split)
            for e, emotion in enumerate(sample.EMOTIONS):
                speaker, voice = voices[(number + 2 * e + d) % len(voices)]
                clips.append((f"{split}-{dialect.lower()}{FIRST_SENTENCE + number}-{emotion}", text, emotion, speaker, voice))
    return clips


def check(clips: dict[str, list[tuple]]) -> None:
    """No voice and no sentence is in two splits; dev and test have every pair of dialect and emotion in every voice once."""
    splits = list(clips)
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            for what, of in (("voice", lambda clip: clip[4][0]), ("text", lambda clip: clip[1]["spoken"])):
                shared = {of(clip) for clip in clips[first]} & {of(clip) for clip in clips[second]}
                assert not shared, f"{what} in {first} and {second}: {shared}"
    for split in ("dev", "test"):
        cells = {(speaker, text["dialect"], emotion) for _, text, emotion, speaker, _ in clips[split]}
        assert len(cells) == len(clips[split]) == 20 * len(VOICES[split]), split


def make_rows(out: Path, clips: list[tuple]) -> list[tuple[dict, dict, str]]:
    """Writes the clips of a split; their rows without a target, their texts and emotions."""

    def make(clip):
        name, text, emotion, speaker, voice = clip
        pitch, span, rate, db = sample.EMOTIONS[emotion]
        db += sample.JITTER_DB * (sample.pick(name + " loudness", 2001) / 1000 - 1)
        samples = sample.say(text["spoken"], voice, pitch, span, rate, db)
        soundfile.write(out / "audio" / f"{name}.flac", samples, sample.RATE_HZ, format="FLAC", subtype="PCM_16")
        seconds = round(len(samples) / sample.RATE_HZ, 3)
        row = {"id": name, "audio": f"audio/{name}.flac", "duration": seconds, "language": "ar", "speaker": speaker, "group": name.rsplit("-", 1)[0]}
        return row, text, emotion

    return sample.in_parallel(make, clips)


def write_split(out: Path, split: str, made: list[tuple[dict, dict, str]]) -> None:
    tasks = {
        "asr": [row | {"text": sample.plain(text["spoken"])} for row, text, _ in made],
        "summarization": [row | {"summary": text["summary"]} for row, text, _ in made],
        "dialect": [row | {"label": text["dialect"]} for row, text, _ in made],
        "emotion": [row | {"label": emotion} for row, _, emotion in made],
    }
    if split == "train":
        chosen = sorted(tasks["summarization"], key=lambda row: skew.rank("summary", row))[: len(made) // 2]
        tasks["summarization"] = sorted(chosen, key=lambda row: row["id"])
        tasks["dialect"] = skew.by_label(tasks["dialect"], skew.DIALECTS, "dialect")
        tasks["emotion"] = skew.by_label(tasks["emotion"], skew.EMOTIONS, "emotion")
    for task, rows in tasks.items():
        sample.write_rows(out / f"{task}-{split}.jsonl", rows)


def fingerprint(out: Path) -> str:
    """SHA-256 over manifests and clips, to compare sets of two machines."""
    total = hashlib.sha256()
    for path in sorted([*out.glob("*.jsonl"), *(out / "audio").glob("*.flac")]):
        total.update(path.name.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "data/large/voices")
    out = parser.parse_args().out
    (out / "audio").mkdir(parents=True, exist_ok=True)
    clips = {split: clips_of(split) for split in SENTENCES}
    check(clips)
    for split in clips:
        write_split(out, split, make_rows(out, clips[split]))
    print(json.dumps({"fingerprint": fingerprint(out)}))


if __name__ == "__main__":
    main()
