"""Makes data/sample: synthetic Arabic sentences for four tasks, and the larger sets that go with them.

    python data/sample/make.py                        # data/sample, the shipped files
    python data/sample/make.py --scale 5 --out DIR    # five times as many training sentences
    python data/sample/make.py --base --out data/base # training data of the small base model

Needs espeak-ng 1.51, numpy 2, soxr 1.1, soundfile 0.14. Everything follows from the lists below and counter hashes, so the same
versions give the same manifests and, to the encoder's serial numbers, the same clips. Nothing here is needed to train.
"""

import argparse
import hashlib
import io
import json
import subprocess
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

HERE = Path(__file__).parent
RATE_HZ = 16_000

# Words are written with their vowels, which the synthesiser needs; transcripts omit them, as usual.
# A summary names one of the six kinds of things in place of the thing.
THINGS = {
    "طَعَام": ["خُبْز", "جُبْن", "تُفَّاح", "سَمَك", "عَسَل", "تَمْر", "بَيْض", "زَيْتُون"],
    "مَلَابِس": ["قَمِيص", "مِعْطَف", "حِذَاء", "ثَوْب", "قُبَّعَة", "جَوْرَب", "وِشَاح", "حِزَام"],
    "أَثَاث": ["كُرْسِي", "سَرِير", "طَاوِلَة", "خِزَانَة", "مِصْبَاح", "سَجَّاد", "مِرْآة", "رَفّ"],
    "أَدَوَات": ["مِفْتَاح", "سِكِّين", "مِطْرَقَة", "حَبْل", "مِقَصّ", "مِنْشَار", "مِسْمَار", "دَلْو"],
    "حَيَوَان": ["حِصَان", "جَمَل", "قِطّ", "كَلْب", "عُصْفُور", "خَرُوف", "أَرْنَب", "بَقَرَة"],
    "قِرْطَاسِيَّة": ["كِتَاب", "قَلَم", "دَفْتَر", "مِسْطَرَة", "وَرَق", "حِبْر", "ظَرْف", "مِمْحَاة"],
}
PLACES = [
    "السُّوق", "المَدْرَسَة", "البَيْت", "المَطْبَخ", "الحَدِيقَة", "المَصْنَع", "المَكْتَب", "القَرْيَة", "المَدِينَة", "المَطَار", "المِينَاء", "المَزْرَعَة",
    "المَتْحَف", "المَلْعَب", "المَسْرَح", "الجَامِعَة", "الفُنْدُق", "المَطْعَم", "الشَّارِع", "المَحَطَّة", "البَنْك", "المَكْتَبَة", "الغَابَة", "الجَبَل",
    "الشَّاطِئ", "النَّهْر", "الصَّحْرَاء", "القَلْعَة", "البُرْج", "الجِسْر", "المَخْزَن", "الوَرْشَة", "الدُّكَّان", "المُسْتَشْفَى", "الصَّيْدَلِيَّة", "المَعْرِض",
]
QUALITIES = [
    "جَدِيد", "قَدِيم", "كَبِير", "صَغِير", "أَحْمَر", "أَزْرَق", "أَخْضَر", "أَبْيَض", "أَسْوَد", "طَوِيل", "قَصِير", "ثَقِيل",
    "خَفِيف", "جَمِيل", "غَرِيب", "رَخِيص", "ثَمِين", "نَظِيف", "قَوِيّ", "نَاعِم", "بَارِد", "سَاخِن", "وَاسِع", "لَطِيف",
]
# Words that only make up other sentences, for the base model.
OTHERS = [
    "وَاحِد", "اِثْنَان", "ثَلَاثَة", "أَرْبَعَة", "خَمْسَة", "سِتَّة", "سَبْعَة", "ثَمَانِيَة", "تِسْعَة", "عَشْرَة", "شَمْس", "قَمَر", "نَجْم", "مَطَر", "رِيح", "ثَلْج",
    "وَلَد", "بِنْت", "رَجُل", "طَبِيب", "مُعَلِّم", "مُهَنْدِس", "تَاجِر", "فَلَّاح", "صَدِيق", "جَار", "صَبَاح", "مَسَاء", "يَوْم", "لَيْل", "شَهْر", "سَنَة",
    "سَلَام", "شُكْرًا", "مَرْحَبًا", "نَعَم", "بَاب", "شُبَّاك", "سَيَّارَة", "قِطَار", "طَائِرَة", "سَفِينَة", "هَاتِف", "سَاعَة", "صُورَة", "رِسَالَة", "قِصَّة", "لُعْبَة",
    "حَلِيب", "قَهْوَة", "شَاي", "سُكَّر", "مِلْح", "أُرْز", "لَيْمُون", "عِنَب", "وَرْد", "شَجَرَة", "أَرْض", "سَمَاء", "نَار", "حَدِيد", "خَشَب", "زُجَاج", "ذَهَب", "فِضَّة",
    "مَدِير", "طَالِب", "كَاتِب", "شَاعِر",
]
# A dialect is only in these words: now, I want, very, from.
DIALECTS = {
    "MSA": {"now": "الآنَ", "want": "أُرِيدُ", "very": "جِدًّا", "from": "مِنْ"},
    "EGY": {"now": "دِلْوَقْتِي", "want": "عَايِز", "very": "أَوِي", "from": "مِنْ"},
    "GLF": {"now": "الحِينْ", "want": "أَبْغَى", "very": "وَايِدْ", "from": "مِنْ"},
    "LAV": {"now": "هَلَّقْ", "want": "بِدِّي", "very": "كْتِيرْ", "from": "مِنْ"},
    "NOR": {"now": "دَابَا", "want": "بْغِيتْ", "very": "بَزَّافْ", "from": "مِنْ"},
}
FORMS = [
    ["now", "want", "thing", "from", "place"],
    ["want", "thing", "from", "place", "now"],
    ["from", "place", "want", "thing", "now"],
    ["want", "thing", "quality", "very", "now"],
    ["now", "want", "thing", "very", "quality"],
]

# An emotion is a change relative to the voice's own: pitch (steps of espeak's 0-99 scale), pitch range (percent), rate (factor), loudness (dB).
EMOTIONS = {"angry": (4, 50, 1.28, 4.0), "happy": (24, 190, 1.10, 1.0), "neutral": (0, 100, 1.0, 0.0), "sad": (-18, 30, 0.80, -4.0)}
JITTER_DB = 4.0  # Loudness also varies at random, so that it does not show the emotion.

# Voice: espeak-ng variant, pitch (0-99), words per minute. No voice is in two splits.
VOICES = {
    "train": {"adel": ("m1", 38, 160), "basma": ("f1", 52, 172), "karim": ("m3", 45, 150), "dina": ("f4", 60, 178),
              "hadi": ("m4", 32, 168), "layla": ("f3", 56, 155), "nabil": ("klatt2", 42, 175), "rania": ("f5", 48, 163)},
    "dev": {"omar": ("m7", 36, 170), "fadia": ("Annie", 54, 158), "sami": ("m5", 44, 165)},
    "test": {"tarek": ("m6", 40, 156), "huda": ("anika", 55, 170), "zaid": ("Andy", 46, 164)},
    "base": {"b01": ("m2", 35, 150), "b02": ("f2", 50, 160), "b03": ("m8", 42, 170), "b04": ("Alicia", 58, 155), "b05": ("klatt", 38, 165),
             "b06": ("klatt3", 46, 175), "b07": ("Andrea", 52, 150), "b08": ("Denis", 40, 160), "b09": ("belinda", 60, 170), "b10": ("Gene", 34, 155),
             "b11": ("Lee", 48, 165), "b12": ("linda", 56, 175), "b13": ("Mario", 44, 150), "b14": ("steph", 54, 160)},
}


def plain(text: str) -> str:
    """The text without vowel marks (Unicode category Mn)."""
    return "".join(c for c in text if unicodedata.category(c) != "Mn")


def pick(purpose: str, bound: int) -> int:
    """A number below `bound` that depends only on its purpose."""
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest()) % bound


def say(text: str, voice: tuple[str, int, int], pitch_steps: float, range_percent: int, rate: float, loudness_db: float) -> np.ndarray:
    """Samples of one clip at 16 kHz, silences at its ends cut to 40 ms."""
    variant, pitch, words_per_minute = voice
    command = ["espeak-ng", "-m", "--stdout", "-v", f"ar+{variant}", "-p", str(round(max(0, min(99, pitch + pitch_steps)))), "-s", str(round(words_per_minute * rate))]
    marked = f'<speak><prosody range="{range_percent}%">{text}</prosody></speak>'
    wav = subprocess.run([*command, marked], check=True, capture_output=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate_hz, RATE_HZ, "VHQ")
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    margin = RATE_HZ * 40 // 1000
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    rms = float(np.sqrt(np.mean(samples**2)))
    return np.clip(samples / rms * 0.06 * 10 ** (loudness_db / 20), -0.99, 0.99)


def sentence(dialect: str, number: int, split: str) -> dict:
    """The `number`-th sentence of a split: its thing occurs with its place or quality in this split alone."""
    things = [(kind, thing) for kind, members in THINGS.items() for thing in members]
    share = {"dev": range(0, 1), "test": range(1, 2), "train": range(2, 5), "base": range(5, 10)}[split]
    form = FORMS[pick(f"{split} {dialect} {number} form", len(FORMS))]
    for attempt in range(1000):
        purpose = f"{split} {dialect} {number} {attempt}"
        (kind, thing), place = things[pick(purpose + " thing", len(things))], PLACES[pick(purpose + " place", len(PLACES))]
        quality = QUALITIES[pick(purpose + " quality", len(QUALITIES))]
        if pick(f"{thing} {place if 'place' in form else quality}", 10) in share:
            break
    words = DIALECTS[dialect] | {"thing": thing, "place": place, "quality": quality}
    detail = f"مِنْ {place}" if "place" in form else quality
    return {"spoken": " ".join(words[slot] for slot in form), "summary": plain(f"{kind} {detail}"), "dialect": dialect}


def write_clip(path: Path, samples: np.ndarray) -> float:
    """Writes Ogg Vorbis at its lowest quality; returns the length in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE_HZ, format="OGG", subtype="VORBIS", compression_level=1.0)
    return round(len(samples) / RATE_HZ, 3)


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def in_parallel(work, items: list) -> list:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def make_sample(out: Path, scale: int) -> None:
    """Every text in every emotion; the voice of a clip moves with text and emotion as in a Latin square, so all three are crossed evenly."""
    for split, per_dialect in (("train", 32 * scale), ("dev", 5), ("test", 6)):
        voices = list(VOICES[split].items())
        clips = []
        for d, dialect in enumerate(DIALECTS):
            for number in range(per_dialect):
                text = sentence(dialect, number, split)
                for e, emotion in enumerate(EMOTIONS):
                    clips.append((f"{split}-{dialect.lower()}{number:03}-{emotion}", text, emotion, voices[(number + 2 * e + d) % len(voices)]))

        def make(clip):
            name, text, emotion, (speaker, voice) = clip
            pitch, span, rate, db = EMOTIONS[emotion]
            db += JITTER_DB * (pick(name + " loudness", 2001) / 1000 - 1)
            seconds = write_clip(out / "audio" / f"{name}.ogg", say(text["spoken"], voice, pitch, span, rate, db))
            group = name.rsplit("-", 1)[0]
            return {"id": name, "audio": f"audio/{name}.ogg", "duration": seconds, "language": "ar", "speaker": speaker, "group": group}, text, emotion

        made = in_parallel(make, clips)
        write_rows(out / f"asr-{split}.jsonl", [row | {"text": plain(text["spoken"])} for row, text, _ in made])
        write_rows(out / f"summarization-{split}.jsonl", [row | {"summary": text["summary"]} for row, text, _ in made])
        write_rows(out / f"dialect-{split}.jsonl", [row | {"label": text["dialect"]} for row, text, _ in made])
        write_rows(out / f"emotion-{split}.jsonl", [row | {"label": emotion} for row, _, emotion in made])


def vocabulary() -> list[str]:
    words = [thing for members in THINGS.values() for thing in members] + list(THINGS) + PLACES + QUALITIES + OTHERS
    words += [word for markers in DIALECTS.values() for word in markers.values()]
    return list(dict.fromkeys(words))


def make_base(out: Path) -> None:
    """Words, then sentences of the script and of chance, in voices and prosody of their own: speech to text, and text alone. All of it is MSA."""
    dialectal = {word for markers in DIALECTS.values() for word in markers.values()} - set(DIALECTS["MSA"].values())
    words = [word for word in vocabulary() if word not in dialectal]
    print(f"{len(words)} words")

    def chance(name: str, length: int) -> str:
        return " ".join(words[pick(f"{name} word {i}", len(words))] for i in range(length))

    texts = [(f"word-{i:05}", words[i % len(words)] if i < 4 * len(words) else chance(f"word-{i:05}", 2)) for i in range(2000)]
    for i in range(6000):
        name = f"sentence-{i:05}"
        texts.append((name, sentence("MSA", i, "base")["spoken"] if i % 2 else chance(name, 3 + pick(name + " length", 4))))
    voices = list(VOICES["base"].items())

    def make(clip):
        name, text = clip
        speaker, voice = voices[pick(name + " voice", len(voices))]
        pitch, span, rate, db = pick(name + " pitch", 29) - 14, 60 + pick(name + " range", 81), 0.88 + pick(name + " rate", 27) / 100, pick(name + " db", 121) / 10 - 6
        seconds = write_clip(out / "audio" / f"{name}.ogg", say(text, voice, pitch, span, rate, db))
        return {"id": name, "audio": f"audio/{name}.ogg", "duration": seconds, "language": "ar", "task": "words" if name.startswith("word") else "asr", "text": plain(text), "speaker": speaker}

    made = in_parallel(make, texts)
    write_rows(out / "words.jsonl", [row for row in made if row["id"].startswith("word")])
    sentences = [row for row in made if row["id"].startswith("sentence")]
    write_rows(out / "sentences.jsonl", sentences[:-100])
    write_rows(out / "dev.jsonl", sentences[-100:])
    ask = {"ar": "أعد كتابة النص التالي: {}", "en": "Repeat this text: {}"}
    text_rows = []
    for i in range(4000):
        text = plain(sentence("MSA", 10_000 + i, "base")["spoken"] if i % 2 else chance(f"text {i}", 2 + pick(f"text {i}", 6)))
        language = "ar" if i % 4 else "en"
        text_rows.append({"id": f"text-{i:05}", "language": language, "instruction": ask[language].format(text), "target": text, "task": "repeat"})
    write_rows(out / "text.jsonl", text_rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--scale", type=int, default=1, help="training sentences, as a multiple of what ships")
    parser.add_argument("--base", action="store_true", help="make what the base model is trained on instead")
    arguments = parser.parse_args()
    make_base(arguments.out) if arguments.base else make_sample(arguments.out, arguments.scale)
