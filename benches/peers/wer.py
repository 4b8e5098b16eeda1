"""maqam's word and character error rates compared with jiwer's, over the same sentence pairs in one run.

    python benches/peers/wer.py [--pairs 100000] [--repeats 3] [--bench path/to/metrics-bench-binary]

Needs jiwer. Both are given texts in memory and give a corpus rate with its counts; reading the file is not timed. maqam runs on
all cores and, in a second run, on one. Each number is the fastest of the repeats; the ratio is jiwer's time over maqam's.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

import jiwer

WORDS = "في البيت كتاب مدرسة قال الرجل سلام غدا هل نعم احمد الى على هذا هذه ذلك the cat sat on mat hello world and some other words".split()


def sentences(count):
    """Sentences of 4 to 23 words, one word in seven dropped, replaced or brought in."""
    rng = random.Random(3)
    for _ in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.randrange(4, 24))]
        said = []
        for word in reference:
            draw = rng.random()
            said += [] if draw < 0.04 else [rng.choice(WORDS)] if draw < 0.12 else [rng.choice(WORDS), word] if draw < 0.15 else [word]
        yield " ".join(reference), " ".join(said)


def fastest(repeats, run):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - start)
    return min(times), found


def ours(bench, pairs, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
        command = [bench] if bench else ["cargo", "bench", "--quiet", "--bench", "metrics", "--"]
        environment = os.environ | ({"RAYON_NUM_THREADS": str(threads)} if threads else {})
        lines = subprocess.run([*command, str(path)], check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    rates = dict(line.split(" ", 1) for line in lines[1:])
    return {name: (float(rest.split()[0]), float(rest.split()[2])) for name, rest in rates.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bench")
    arguments = parser.parse_args()
    pairs = list(sentences(arguments.pairs))
    references, predictions = map(list, zip(*pairs))
    peers = {"wer": lambda: jiwer.process_words(references, predictions).wer, "cer": lambda: jiwer.process_characters(references, predictions).cer}
    found = {threads: ours(arguments.bench, pairs, threads) for threads in [None, 1]}
    for name, run in peers.items():
        theirs, rate = fastest(arguments.repeats, run)
        for threads, times in found.items():
            seconds, our_rate = times[name]
            assert abs(rate - our_rate) < 1e-12, (rate, our_rate)
            print(f"{name}: jiwer {theirs:.2f} s, maqam on {'one core' if threads else 'all cores'} {seconds:.3f} s, {theirs / seconds:.0f} times")


if __name__ == "__main__":
    main()
