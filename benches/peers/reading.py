"""Decoding, resampling and log-mel of FLAC and MP3 in hours of audio per minute: maqam, librosa and torchaudio, one core each, in one run.

    python benches/peers/reading.py FILE... [--rounds 3] [--maqam target/release/maqam]

FILE names recordings, such as `tests/fixtures/audio/a*.wav`. The script joins them to clips of 15 s, repeating them to `--clips` clips, and
writes each clip as FLAC and as MP3, at 16 kHz and at 48 kHz. maqam runs as `maqam features`, so its time has the start of the program and the
writing of the features in it. Peers:

- `librosa.load(sr=16000)` (libsndfile, soxr HQ) and `librosa.feature.melspectrogram`
- torchaudio: `soundfile.read` (libsndfile; `torchaudio.load` needs TorchCodec, which needs FFmpeg), `functional.resample`, `MelSpectrogram`

All compute 128 mel bands from windows of 400 and hops of 160 samples, and their logarithm. The programs take turns in each round. The figures
are processor time, so that other programs on the machine count little, and the fastest round of each counts. Needs librosa, torchaudio,
soundfile, soxr.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import librosa  # noqa: E402
import numpy as np  # noqa: E402
import soundfile as sf  # noqa: E402
import soxr  # noqa: E402
import torch  # noqa: E402
import torchaudio  # noqa: E402

torch.set_num_threads(1)
SECONDS = 15
KINDS = {
    "FLAC 16 kHz mono": ("flac", 16000, 1),
    "FLAC 48 kHz stereo": ("flac", 48000, 2),
    "MP3 16 kHz mono": ("mp3", 16000, 1),
    "MP3 48 kHz mono": ("mp3", 48000, 1),
}


def clips(files, count):
    """Clips of 15 s at 16 kHz."""
    samples = np.concatenate([librosa.load(file, sr=16000)[0] for file in files])
    samples = np.resize(samples, count * SECONDS * 16000)
    return samples.reshape(count, -1)


def write(samples, folder, ending, rate, channels):
    paths = []
    for i, clip in enumerate(samples):
        if rate != 16000:
            clip = soxr.resample(clip, 16000, rate, "VHQ")
        if channels == 2:
            clip = np.stack([clip, 0.5 * clip], axis=1)
        path = os.path.join(folder, f"{i}-{rate}-{channels}.{ending}")
        sf.write(path, np.clip(clip, -1, 1), rate)
        paths.append(path)
    return paths


def with_librosa(path):
    samples, _ = librosa.load(path, sr=16000)
    mel = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=400, hop_length=160, n_mels=128)
    return np.log10(np.maximum(mel, 1e-10))


MELS = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=128, norm="slaney", mel_scale="slaney")


def with_torchaudio(path):
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    samples = torch.from_numpy(samples.mean(axis=1))
    if rate != 16000:
        samples = torchaudio.functional.resample(samples, rate, 16000)
    return MELS(samples).clamp(min=1e-10).log10()


def seconds_of(run, paths):
    start = time.process_time()
    for path in paths:
        run(path)
    return time.process_time() - start


def ours(program, paths):
    """Processor time of `maqam features`, on all of its threads."""
    folder = os.path.dirname(paths[0])
    manifest = os.path.join(folder, "rows.jsonl")
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"audio": path}) + "\n" for path in paths)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = os.path.join(folder, "features.safetensors")
    subprocess.run([program, "-q", "features", "--data", manifest, "--out", out], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--maqam", default="target/release/maqam", help="the program")
    arguments = parser.parse_args()

    samples = clips(arguments.files, arguments.clips)
    hours = len(samples) * SECONDS / 3600
    programs = {
        "maqam": lambda paths: ours(arguments.maqam, paths),
        "librosa": lambda paths: seconds_of(with_librosa, paths),
        "torchaudio": lambda paths: seconds_of(with_torchaudio, paths),
    }
    print(f"{'hours of audio per minute of one core':40} " + " ".join(f"{name:>12}" for name in programs))
    with tempfile.TemporaryDirectory() as folder:
        for kind, (ending, rate, channels) in KINDS.items():
            paths = write(samples, folder, ending, rate, channels)
            best = dict.fromkeys(programs, float("inf"))
            for round in range(arguments.rounds + 1):
                for name, run in programs.items():
                    took = run(paths)
                    # The first round loads libraries and files.
                    best[name] = min(best[name], took) if round else best[name]
            print(f"{kind:40} " + " ".join(f"{hours / best[name] * 60:12.2f}" for name in programs))


if __name__ == "__main__":
    main()
