"""Step time and memory of training with the tower and with the student, frozen and trained in full.

    python docs/experiments/encoders/llm/cost.py                 # needs Linux, Python 3.9 and a student: see experiment.yaml

    --maqam PROGRAM    by default `maqam`
    --steps N          steps of a run, by default 40
    --repeats N        runs of each, one after the other in turn, by default 3

Every run is one step of stage `align` and N steps of stage `joint` of the recipe beside this file. Step times are those of the run's environment.json, memory is
the process's peak as the kernel counts it. Prints medians, smallest and largest as Markdown, and what `maqam plan` says about parameters
and real-time factors. A frozen encoder's outputs are cached in runs/.encoded: the first run of each recipe fills the cache, later ones read it,
so the smallest and the largest time of frozen encoders differ.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = "docs/experiments/encoders/llm"


def run(maqam, recipe, training, steps):
    """Seconds per step and peak bytes of a run."""
    name = f"cost-{recipe}-{training}"
    shutil.rmtree(Path("runs") / name, ignore_errors=True)
    sets = [f"name={name}", f"train.audio_encoder={training}", "schedule.stages.0.steps=1", f"schedule.stages.1.steps={steps}"]
    words = [maqam, "train", f"{HERE}/{recipe}.yaml", "--quiet", *(word for change in sets for word in ("--set", change))]
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(process.returncode)
    written = json.loads((Path("runs") / name / "environment.json").read_text())
    return written["training_s"] / written["steps"], usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maqam", default="maqam", metavar="PROGRAM")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    kinds = [(recipe, training) for training in ("frozen", "full") for recipe in ("tower", "student")]
    found = {kind: [] for kind in kinds}
    for _ in range(given.repeats):
        for kind in kinds:
            found[kind].append(run(given.maqam, *kind, given.steps))
    print("| encoder | trained | seconds per step: median, smallest, largest | peak memory, MB: median, largest |")
    print("|---|---|---|---|")
    for (recipe, training), pairs in found.items():
        times, bytes_ = zip(*pairs)
        time = f"{statistics.median(times):.3f}, {min(times):.3f}, {max(times):.3f}"
        memory = f"{statistics.median(bytes_) / 1e6:.0f}, {max(bytes_) / 1e6:.0f}"
        print(f"| {recipe} | {training} | {time} | {memory} |")
    plan = subprocess.run([given.maqam, "plan", f"{HERE}/student.yaml"], capture_output=True, text=True)
    _, found, rest = plan.stdout.partition("\nencoder ")
    print(f"\n{(found + rest.partition(chr(10) * 2)[0]).strip()}")


if __name__ == "__main__":
    main()
