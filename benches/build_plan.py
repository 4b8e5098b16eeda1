"""Time and memory of `maqam build --dry-run`, which collects, cleans and splits a corpus and estimates the build.

    python benches/build_plan.py FOLDER [--maqam target/release/maqam] [--documents 25000 100000]

A document has 13 sentences of 23 words out of 20,000, as long as in NTREX; one in a hundred repeats an earlier one with one word changed. FOLDER
gets the documents. Needs nothing but Python 3.10 and a system with `wait4`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"
SENTENCES, SENTENCE_WORDS, VOCABULARY = 13, 23, 20_000
REPEATED = 100  # One document in so many repeats an earlier one.


def write(path, num):
    """Writes documents, and returns how many repeat others."""
    draw = random.Random(num)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 7))) for _ in range(VOCABULARY)]
    repeated, earlier = 0, []
    with path.open("w", encoding="utf-8") as file:
        for i in range(num):
            if i % REPEATED == REPEATED - 1:
                text = list(draw.choice(earlier))
                text[draw.randrange(len(text))] = "مختلف"
                repeated += 1
            else:
                text = draw.choices(words, k=SENTENCES * SENTENCE_WORDS)
            if i % REPEATED == 0:
                earlier.append(text)
            sentences = [" ".join(text[at : at + SENTENCE_WORDS]) + "." for at in range(0, len(text), SENTENCE_WORDS)]
            row = {"id": f"d{i}", "text": " ".join(sentences), "summary": " ".join(text[:8])}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return repeated


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maqam", default="target/release/maqam")
    parser.add_argument("--documents", type=int, nargs="+", default=[25_000, 100_000])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| documents | corpus, MB | time, s | processor time, s | peak memory, MB |\n|---|---|---|---|---|")
    for num in arguments.documents:
        source = arguments.folder / f"documents-{num}.jsonl"
        repeated = write(source, num)
        recipe = arguments.folder / f"plan-{num}.yaml"
        recipe.write_text(f"# A recipe of build_plan.py.\nname: plan-{num}\ncollect: {{from: {source}, summary: summary}}\n")
        started = time.monotonic()
        command = [arguments.maqam, "build", recipe, "--dry-run", "-q", "--out", arguments.folder / f"datasets-{os.getpid()}"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        told = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        if status != 0 or f"{num} documents collected, {repeated} rejected" not in told:
            sys.exit(f"status {status}, and not {repeated} rejections:\n{told}")
        megabytes = source.stat().st_size / 1e6
        print(f"| {num} | {megabytes:.0f} | {seconds:.1f} | {used.ru_utime + used.ru_stime:.1f} | {used.ru_maxrss * 1024 / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
