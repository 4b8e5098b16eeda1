"""maqam's reading and log-mel compared with librosa's and transformers', one core each, in one run.

    python benches/peers/features.py FILE... [--repeats 5] [--bench path/to/audio-bench-binary]

Peers: `WhisperFeatureExtractor` with 128 mels as the Qwen2.5-Omni processor calls it (padded to 300 s) and without padding, on torch;
`librosa.load(sr=16000)` with its default resampler (soxr HQ). Needs torch, transformers, librosa. Each number is the fastest of the
repeats; the ratio of a file is the peer's time over maqam's, and the last lines give the ratios of the sums.
"""

import argparse
import os
import subprocess
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import librosa  # noqa: E402
import torch  # noqa: E402
from transformers import WhisperFeatureExtractor  # noqa: E402

torch.set_num_threads(1)


def fastest(repeats, run):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def ours(bench, files, repeats):
    command = [bench] if bench else ["cargo", "bench", "--quiet", "--bench", "audio", "--"]
    command = ["taskset", "-c", "0", *command] if bench and os.path.exists("/usr/bin/taskset") else command
    lines = subprocess.run([*command, "--repeats", str(repeats), *files], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines[1:]:
        what, rest = line.split(" ", 1)
        file, audio_s, best_s = rest.rsplit(" ", 2)
        found[what, file] = float(best_s), float(audio_s)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bench", help="the built benchmark; default: cargo bench")
    arguments = parser.parse_args()

    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    mine = ours(arguments.bench, arguments.files, arguments.repeats)
    columns = ["log_mel padded", "log_mel unpadded", "read"]
    sums = {column: [0.0, 0.0] for column in columns}
    print(f"{'file':40} {'audio_s':>8} " + " ".join(f"{column + ' ms (ours, peer, ratio)':>44}" for column in columns))
    for file in arguments.files:
        samples, _ = librosa.load(file, sr=16000)
        extract = lambda **options: extractor(samples, sampling_rate=16000, return_tensors="np", return_attention_mask=True, **options)  # noqa: E731,B023
        peers = {
            "log_mel padded": fastest(arguments.repeats, lambda: extract(padding="max_length")),
            "log_mel unpadded": fastest(arguments.repeats, lambda: extract(padding=False, truncation=False)),
            "read": fastest(arguments.repeats, lambda: librosa.load(file, sr=16000)),  # noqa: B023
        }
        cells = []
        for column in columns:
            own_s, audio_s = mine[column.split()[0], file]
            sums[column][0] += own_s
            sums[column][1] += peers[column]
            cells.append(f"{own_s * 1e3:14.3f} {peers[column] * 1e3:14.3f} {peers[column] / own_s:13.1f}x")
        print(f"{os.path.basename(file)[-40:]:40} {audio_s:8.2f} " + " ".join(cells))
    for column in columns:
        own_s, peer_s = sums[column]
        print(f"{column}: {peer_s / own_s:.1f}x faster over all files ({own_s * 1e3:.2f} ms against {peer_s * 1e3:.2f} ms)")


if __name__ == "__main__":
    main()
