"""Effect of fp8 on losses, from files that maqam wrote: tables of docs/experiments/fp8.md, and its figure.

    python docs/experiments/fp8/effect.py scores MANIFEST F32.jsonl FP8.jsonl   # two outputs of `maqam score` over one manifest
    python docs/experiments/fp8/effect.py models F32.jsonl FP8.jsonl [F32.jsonl FP8.jsonl ...]   # such pairs, one of each model
    python docs/experiments/fp8/effect.py curves runs/fp8 docs/experiments/fp8/curves.svg

Needs nothing but Python 3.10.
"""

import json
import math
import random
import statistics
import sys
from pathlib import Path

RESAMPLES = 10_000
# The 97.5 % quantile of Student's t by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
BLOCK = 50  # Steps that a row of the table of curves averages.
WINDOW = 10  # Steps that a point of the figure averages.
WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 250, 54, 40, 84
COLOURS = {"f32": "#57606a", "fp8": "#d9622b", "f32-split": "#2f6fdd"}
# Colours on light screens, each with its colour on dark ones.
DARK = {"#57606a": "#9aa4ae", "#d9622b": "#f06b00", "#2f6fdd": "#668ff3", "#1f2328": "#e6e8ea", "#d8dee4": "#30363c", "#ffffff": "#14171a"}
STYLE = "<style>@media (prefers-color-scheme:dark){" + "".join(f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()) + "}</style>"
FONT = 'font-family="Inter, Helvetica, Arial, sans-serif"'


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def scores(manifest: str, exact: str, rounded: str) -> None:
    """The mean of a row's difference in loss, nats a target token, with an interval by resampling sentences (`group`)."""
    groups = {row["id"]: row["group"] for row in rows(manifest)}
    by_id = {row["id"]: row for row in rows(rounded)}
    clusters: dict[str, list[tuple[float, float]]] = {}
    for row in rows(exact):
        clusters.setdefault(groups[row["id"]], []).append((row["loss"], by_id[row["id"]]["loss"]))
    pairs = [pair for cluster in clusters.values() for pair in cluster]
    means = [statistics.fmean(pair[i] for pair in pairs) for i in (0, 1)]
    sums = [(sum(b - a for a, b in cluster), len(cluster)) for cluster in clusters.values()]
    draw = random.Random(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(sums, k=len(sums))
        drawn.append(sum(total for total, _ in chosen) / sum(count for _, count in chosen))
    drawn.sort()
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    apart = statistics.fmean(abs(b - a) for a, b in pairs)
    worse = sum(b > a for a, b in pairs)
    print(f"| {len(pairs)} | {means[0]:.4f} | {means[1]:.4f} | {means[1] - means[0]:+.4f} [{low:+.4f}, {high:+.4f}] | {apart:.4f} | {worse} |")


def models(outputs: list[str]) -> None:
    """The mean over models of the mean difference in loss, nats a target token, with Student's t interval over models."""
    means = [statistics.fmean(row["loss"] for row in rows(output)) for output in outputs]
    exact, rounded = means[0::2], means[1::2]
    apart = [b - a for a, b in zip(exact, rounded, strict=True)]
    half = T_95[len(apart) - 1] * statistics.stdev(apart) / math.sqrt(len(apart))
    mean, base = statistics.fmean(apart), statistics.fmean(exact)
    each = " ".join(f"{difference:+.3f}" for difference in apart)
    print(f"| {base:.3f} | {min(exact):.3f} to {max(exact):.3f} | {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}] | {each} | {100 * mean / base:+.1f} % |")


def losses(folder: Path) -> dict[str, list[list[float]]]:
    """By recipe, each seed's training loss by step; runs that are not at their end are left out, and seeds that not all have."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in sorted(folder.glob("*-seed*")):
        recipe, seed = run.name.rsplit("-seed", 1)
        if (run / "done.json").is_file():
            log = rows(str(run / "log.jsonl"))
            found.setdefault(recipe, {})[int(seed)] = [line["loss"] for line in log if line["kind"] == "train"]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
    return {recipe: [by_seed[seed] for seed in seeds] for recipe, by_seed in found.items()}


def table(curves: dict[str, list[list[float]]]) -> None:
    exact = curves["f32"]
    others = [name for name in curves if name != "f32"]
    print(f"{len(exact)} seeds\n\n| steps | f32, mean | seeds of f32 | " + " | ".join(f"{name}: mean difference | of a step" for name in others) + " |")
    print("|" + "---|" * (3 + 2 * len(others)))
    for start in range(0, len(exact[0]), BLOCK):
        cut = slice(start, start + BLOCK)
        means = [statistics.fmean(seed[cut]) for seed in exact]
        cells = [f"{start + 1} to {start + BLOCK}", f"{statistics.fmean(means):.4f}", f"{min(means):.4f} to {max(means):.4f}"]
        for name in others:
            each = [b - a for one, other in zip(exact, curves[name]) for a, b in zip(one[cut], other[cut])]
            by_seed = [statistics.fmean(b - a for a, b in zip(one[cut], other[cut])) for one, other in zip(exact, curves[name])]
            spread = ", ".join(f"{value:+.4f}" for value in by_seed)
            cells += [f"{statistics.fmean(each):+.4f} ({spread})", f"{math.sqrt(statistics.fmean(d * d for d in each)):.4f}"]
        print("| " + " | ".join(cells) + " |")


def smooth(values: list[float]) -> list[tuple[float, float]]:
    """Means of windows of steps, each at its middle."""
    return [(start + WINDOW / 2, statistics.fmean(values[start : start + WINDOW])) for start in range(0, len(values), WINDOW)]


def panel(x: int, title: str, curves: list[tuple[str, list[tuple[float, float]]]], low: float, high: float, last: int, is_log: bool) -> str:
    """One plot with its axes; each curve is a recipe's name and points."""
    right, bottom = x + WIDTH - 60, TOP + HEIGHT
    scale = math.log10 if is_log else float

    def height(value: float) -> float:
        share = (scale(max(value, low)) - scale(low)) / (scale(high) - scale(low))
        return bottom - HEIGHT * min(share, 1.0)

    parts = [f'<text x="{x}" y="{TOP - 16}" font-size="14" font-weight="600" fill="#1f2328">{title}</text>']
    ticks = [10.0**i for i in range(round(math.log10(low)), round(math.log10(high)) + 1)] if is_log else [low + (high - low) * i / 5 for i in range(6)]
    for value in ticks:
        y = height(value)
        parts.append(f'<line x1="{x}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/><text x="{x - 8}" y="{y + 4:.1f}" font-size="11" text-anchor="end" fill="#57606a">{value:g}</text>')
    for i in range(5):
        place = x + (right - x) * i / 4
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" font-size="11" text-anchor="middle" fill="#57606a">{last * i // 4}</text>')
    parts.append(f'<text x="{(x + right) / 2}" y="{bottom + 36}" font-size="11" text-anchor="middle" fill="#57606a">step</text>')
    for name, points in curves:
        drawn = " ".join(f"{x + (right - x) * step / last:.1f},{height(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5" stroke-linejoin="round"/>')
    for i, name in enumerate(dict.fromkeys(name for name, _ in curves)):
        parts.append(f'<text x="{right - 70}" y="{TOP + 16 + 16 * i}" font-size="12" fill="{COLOURS[name]}">{name}</text>')
    return "\n".join(parts)


def draw(curves: dict[str, list[list[float]]], target: str) -> None:
    last = len(curves["f32"][0])
    left = [(name, smooth(seed)) for name in ("f32", "fp8") for seed in curves[name]]
    apart = [
        (name, smooth([abs(b - a) for a, b in zip(exact, other)]))
        for name in ("fp8", "f32-split")
        for exact, other in zip(curves["f32"], curves.get(name, []))
    ]
    second = LEFT + WIDTH + GAP - 60
    width, height = second + WIDTH - 30, TOP + HEIGHT + 50
    body = panel(LEFT, f"training loss, each seed (mean of {WINDOW} steps)", left, 0.0, math.ceil(max(value for _, points in left for _, value in points)), last, False) + "\n"
    body += panel(second, "distance from f32 at the same step, same seed", apart, 1e-7, 1.0, last, True)
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {FONT}>\n'
        f'{STYLE}\n<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def main() -> None:
    match sys.argv[1:]:
        case ["scores", manifest, exact, rounded]:
            scores(manifest, exact, rounded)
        case ["models", *outputs]:
            models(outputs)
        case ["curves", folder, target]:
            curves = losses(Path(folder))
            table(curves)
            draw(curves, target)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
