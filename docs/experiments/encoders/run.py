"""Runs the experiment of this folder, step after step, and leaves out what is finished.

    python docs/experiments/encoders/rows.py data/real
    python docs/experiments/encoders/run.py                      # needs nothing but Python 3.9 and `maqam`
    python docs/experiments/encoders/table.py

    --maqam PROGRAM           by default `maqam`
    --only teacher|students|probes
    --dry-run                 prints the commands that are left

Stop it with Ctrl-C, or kill it; start it again and it goes on at the last checkpoint. Every run is a folder `runs/encoders-NAME`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path("docs/experiments/encoders")
SEEDS = (1, 2, 3)
TARGET = "iterations.0.targets.0"

# Changes to student.yaml. All have 200 codes and 1,870 updates.
STUDENTS = {
    "plain": [],
    "pca64": [f"{TARGET}.pca=64"],
    "pca9": [f"{TARGET}.pca=9"],
    "random9": [f"{TARGET}.random=9"],
    "masked": ["iterations.0.masks.share=0.8", "iterations.0.loss.unmasked=0"],
    "features": [f"{TARGET}.learn=features", f"{TARGET}.fit=null"],
}
TASKS = ("words", "intensity", "dialect")
POOLS = ("mean_std", "segments")


def names(kind):
    return [f"{kind}-{seed}" for seed in SEEDS]


def systems():
    """What is probed: a name, and the folder of the encoder."""
    found = [("mfcc", "mfcc")]
    for iteration in (1, 2):
        found.append((f"teacher-{iteration}", f"runs/encoders-teacher/iteration-{iteration}/encoder"))
    for kind in (*STUDENTS, "no-teacher"):
        found += [(name, f"runs/encoders-{name}/iteration-1/encoder") for name in names(kind)]
    return found


def command(kind, recipe, name, changes):
    sets = [f"name=encoders-{name}", *changes]
    return ["encoder", kind, str(HERE / recipe), "--resume", *(word for change in sets for word in ("--set", change))]


def steps():
    """Part, the folder that exists when it is done, and the arguments of maqam."""
    yield "teacher", "runs/encoders-teacher/iteration-2/encoder", command("pretrain", "teacher.yaml", "teacher", [])
    # Seed by seed, so that one seed of everything is there first.
    for seed in SEEDS:
        for kind, changes in STUDENTS.items():
            name = f"{kind}-{seed}"
            arguments = command("distill", "student.yaml", name, [f"seed={seed}", *changes])
            yield "students", f"runs/encoders-{name}/iteration-1/encoder", arguments
        name = f"no-teacher-{seed}"
        yield "students", f"runs/encoders-{name}/iteration-1/encoder", command("pretrain", "mfcc.yaml", name, [f"seed={seed}"])
    for system, encoder in systems():
        for task in TASKS:
            for pool in POOLS:
                name = f"{task}-{pool}-{system}"
                arguments = command("probe", f"{task}.yaml", name, [f"encoder={encoder}", f"pool={pool}"])
                yield "probes", f"runs/encoders-{name}/model", arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maqam", default="maqam", metavar="PROGRAM")
    parser.add_argument("--only", choices=("teacher", "students", "probes"))
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    left = [(done, words) for part, done, words in steps() if given.only in (None, part) and not Path(done).is_dir()]
    for place, (done, words) in enumerate(left, 1):
        line = [given.maqam, *words]
        print(f"[{place} of {len(left)}] {' '.join(line)}", flush=True)
        if given.dry_run:
            continue
        code = subprocess.run(line).returncode
        if code != 0:
            sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
