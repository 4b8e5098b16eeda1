"""Tables of the finished probes, as Markdown.

    python docs/experiments/encoders/table.py > probes.md        # needs nothing but Python 3.9

The first table has the UAR of every probe on dev, with maqam's interval, and the settings that cross-validation chose. The second has
the contrasts below, which were written down before the runs. The difference of a contrast is a mean over the seeds. Its interval is
Student's t with one degree of freedom less than there are dev speakers: the standard error is that of 10,000 resamples of the
speakers, times sqrt(n / (n - 1)). It speaks of other speakers, not of other seeds; the range over the seeds stands beside it.
p-values are corrected by Holm's method, over all contrasts that are finished: a table with missing rows is no result.
"""

import json
import math
import random
from pathlib import Path

from run import POOLS, SEEDS, TASKS, systems

# Words need the order of sounds, intensities do not.
PRIMARY = {"words": "segments", "intensity": "mean_std"}
# The teacher has one seed. MFCC have none: their probe is trained once.
CONTRASTS = [
    ("teacher-2", "mfcc"),
    ("plain", "mfcc"),
    ("plain", "no-teacher"),
    ("pca64", "plain"),
    ("pca9", "plain"),
    ("pca9", "random9"),
    ("masked", "plain"),
    ("features", "plain"),
]
RESAMPLES = 10_000


def evaluation(task, pool, system):
    folders = sorted(Path(f"runs/encoders-{task}-{pool}-{system}/eval").glob("step-*"))
    return folders[-1] if folders else None


def predictions(task, pool, kind):
    """Rows of each seed; None if one is missing."""
    alone = any(system == kind for system, _ in systems())
    found = [evaluation(task, pool, system) for system in ([kind] if alone else [f"{kind}-{seed}" for seed in SEEDS])]
    if None in found:
        return None
    return [[json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()] for folder in found]


def counts(rows):
    """By speaker and label: rows, and rows that are right."""
    found = {}
    for row in rows:
        of_label = found.setdefault(row["speaker"], {}).setdefault(row["reference"], [0, 0])
        of_label[0] += 1
        of_label[1] += row["prediction"] == row["reference"]
    return found


def uar(by_speaker, speakers):
    total = {}
    for speaker in speakers:
        for label, (rows, right) in by_speaker[speaker].items():
            of_label = total.setdefault(label, [0, 0])
            of_label[0] += rows
            of_label[1] += right
    return sum(right / rows for rows, right in total.values()) / len(total)


def student_p(t, freedom):
    """Two-sided p-value: Simpson's rule over the density of Student's t from 0 to |t|."""
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    steps = 2000
    width = abs(t) / steps
    weights = [1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1)]
    area = sum(w * (1 + (i * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i, w in enumerate(weights)) * scale * width / 3
    return max(0.0, 1 - 2 * area)


def student_quantile(freedom):
    """The t of a two-sided p-value of 0.05."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > 0.05 else (low, middle)
    return high


def contrast(task, pool, kind, against):
    mine, theirs = predictions(task, pool, kind), predictions(task, pool, against)
    if mine is None or theirs is None:
        return None
    mine, theirs = [counts(rows) for rows in mine], [counts(rows) for rows in theirs]
    speakers = sorted(mine[0])

    def mean(systems, drawn):
        return sum(uar(system, drawn) for system in systems) / len(systems)

    draws = random.Random(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = draws.choices(speakers, k=len(speakers))
        resampled.append(mean(mine, drawn) - mean(theirs, drawn))
    centre = sum(resampled) / RESAMPLES
    n = len(speakers)
    error = math.sqrt(sum((x - centre) ** 2 for x in resampled) / (RESAMPLES - 1) * n / (n - 1))
    difference = mean(mine, speakers) - mean(theirs, speakers)
    reach = student_quantile(n - 1) * error
    each = [uar(a, speakers) - uar(b, speakers) for a in mine for b in theirs]
    return difference, difference - reach, difference + reach, student_p(difference / error, n - 1) if error else 1.0, n, min(each), max(each)


def holm(values):
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, values[i] * (len(values) - rank)))
        adjusted[i] = largest
    return adjusted


def percent(value):
    return f"{100 * value:.1f}"


def probes():
    print("| task | pool | features | UAR, % | 95 % interval | speakers | classifier | weight decay | UAR in cross-validation, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task in TASKS:
        for pool in POOLS:
            for system, _ in systems():
                folder = evaluation(task, pool, system)
                if folder is None:
                    continue
                scores = json.loads((folder / "scores.json").read_text())["scores"]
                score = next(score for score in scores if score["name"] == "uar")
                bounds = "none" if score["interval"] is None else " to ".join(percent(bound) for bound in score["interval"])
                choice = json.loads((folder.parent.parent / "choice.json").read_text())
                chosen = choice["candidates"][choice["chosen"]]
                cells = [task, pool, system, percent(score["value"]), bounds, score["clusters"], chosen["classifier"], chosen["weight_decay"], percent(chosen["uar"])]
                print("| " + " | ".join(str(cell) for cell in cells) + " |")


def contrasts():
    found = []
    for task, pool in PRIMARY.items():
        for kind, against in CONTRASTS:
            result = contrast(task, pool, kind, against)
            if result is not None:
                found.append((task, pool, kind, against, result))
    adjusted = holm([result[3] for *_, result in found])
    print("\n| task | pool | contrast | difference of UAR, points | 95 % interval | over pairs of seeds | speakers | p, corrected |")
    print("|---|---|---|---|---|---|---|---|")
    for (task, pool, kind, against, (difference, low, high, _, speakers, least, most)), p in zip(found, adjusted):
        cells = [task, pool, f"{kind} - {against}", f"{100 * difference:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", f"{100 * least:+.1f} to {100 * most:+.1f}", speakers, "under 0.001" if p < 0.001 else f"{p:.3f}"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    probes()
    contrasts()
