"""Makes the clips and manifests of data/first: synthetic Arabic words, spoken by formant voices in three moods.

    python data/first/make.py            # needs espeak-ng 1.51, numpy 2, soxr 1.1, soundfile 0.14

Everything is computed from the lists below, so the same versions give the same files. Nothing here is needed to train.
"""

import io
import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import soundfile
import soxr

HERE = Path(__file__).parent
RATE_HZ = 16_000

# Written with their vowels, which the synthesiser needs; transcripts omit them, as usual.
PHRASES = [
    "مَرْحَبًا", "شُكْرًا", "نَعَم", "صَبَاحُ الخَيْر", "مَسَاءُ الخَيْر", "أَهْلًا وَسَهْلًا",
    "مَاء", "خُبْز", "كِتَاب", "مَدْرَسَة", "بَيْت", "سَيَّارَة",
    "وَاحِد", "اِثْنَان", "ثَلَاثَة", "أَرْبَعَة", "خَمْسَة", "سِتَّة",
    "شَمْس", "قَمَر", "بَحْر", "جَبَل", "كَيْفَ الحَال", "إِلَى اللِّقَاء",
    "سَلَام", "لَا", "بَاب", "سَبْعَة", "نَهْر", "مَعَ السَّلَامَة",
]
NUM_TRAIN_PHRASES = 24  # The last six are only in dev.

# name: espeak-ng variant, pitch (0-99), words per minute. Voices of dev are not in training.
TRAIN_VOICES = {"adel": ("m1", 45, 155), "basma": ("f2", 45, 165), "karim": ("m3", 50, 145), "dina": ("f4", 60, 175)}
DEV_VOICES = {"omar": ("m7", 40, 160), "fadia": ("f5", 55, 150)}

# A mood is a change of the voice's own pitch (steps of the 0-99 scale), pitch range (percent) and rate (factor).
MOODS = {"happy": (22, 180, 1.15), "neutral": (0, 100, 1.0), "sad": (-18, 40, 0.8)}


def transcript(phrase: str) -> str:
    """The phrase without vowel marks (Unicode category Mn)."""
    return "".join(c for c in phrase if unicodedata.category(c) != "Mn")


def say(phrase: str, voice: tuple[str, int, int], mood: str) -> np.ndarray:
    """Samples of one clip at 16 kHz: silences at its ends cut to 40 ms, peak at 0.5, rounded to 12 bits, which FLAC stores in fewer bytes."""
    variant, pitch, words_per_minute = voice
    pitch_steps, range_percent, rate = MOODS[mood]
    command = ["espeak-ng", "-m", "--stdout", "-v", f"ar+{variant}", "-p", str(pitch + pitch_steps), "-s", str(round(words_per_minute * rate))]
    text = f'<speak><prosody range="{range_percent}%">{phrase}</prosody></speak>'
    wav = subprocess.run([*command, text], check=True, capture_output=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate_hz, RATE_HZ, "VHQ")
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    margin = RATE_HZ * 40 // 1000
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    return np.round(0.5 * samples / np.abs(samples).max() * 2**11) / 2**11


def write(split: str, clips: list[tuple[str, str, int]], voices: dict[str, tuple[str, int, int]]) -> None:
    """Clips (voice, mood, phrase number) as FLAC files, and one manifest per task."""
    rows = {"asr": [], "emotion": []}
    for voice, mood, number in clips:
        samples = say(PHRASES[number], voices[voice], mood)
        name = f"{voice}-{number + 1:02}-{mood}"
        soundfile.write(HERE / "clips" / f"{name}.flac", samples, RATE_HZ, "PCM_16", compression_level=1.0)
        audio = {"audio": f"clips/{name}.flac"}
        common = {"language": "ar", "speaker": voice, "duration": round(len(samples) / RATE_HZ, 3), "split": split}
        rows["asr"].append({"id": f"asr-{name}", **audio, "task": "asr", "text": transcript(PHRASES[number]), **common})
        rows["emotion"].append({"id": f"emotion-{name}", **audio, "task": "emotion", "label": mood, **common})
    for task, of_task in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in of_task]
        (HERE / f"{task}-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    shutil.rmtree(HERE / "clips", ignore_errors=True)
    (HERE / "clips").mkdir()
    moods = list(MOODS)
    # Moods rotate over phrases and voices: each voice has each mood eight times, each phrase is spoken in two or three moods.
    train = [(voice, moods[(number + v) % 3], number) for v, voice in enumerate(TRAIN_VOICES) for number in range(NUM_TRAIN_PHRASES)]
    heard = range(0, NUM_TRAIN_PHRASES, 4)
    unheard = range(NUM_TRAIN_PHRASES, len(PHRASES))
    dev = [(voice, moods[(i + v) % 3], number) for v, voice in enumerate(DEV_VOICES) for i, number in enumerate([*heard, *unheard])]
    write("train", train, TRAIN_VOICES)
    write("dev", dev, DEV_VOICES)


if __name__ == "__main__":
    main()
