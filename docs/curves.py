"""Draws a run's learning curves as an SVG: each task's training loss, and each score of its evaluations.

    python docs/curves.py runs/quickstart docs/curves.svg      # needs nothing but Python 3.10
"""

import html
import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 250, 48, 34, 78
# The colours of `crates/report/src/chart/ink.rs`, for light screens and for dark ones. A built-in task has one colour everywhere.
COLOURS = ["#395cc0", "#bf5300", "#009067", "#9d2594", "#b78e00", "#7d91d0"]
DARK = {"#395cc0": "#668ff3", "#bf5300": "#f06b00", "#009067": "#53d18c", "#9d2594": "#c07ca3", "#b78e00": "#f3de3c", "#7d91d0": "#aeeaff",
        "#ffffff": "#14171a", "#1f2328": "#e6e8ea", "#57606a": "#9aa4ae", "#d8dee4": "#30363c"}
TASKS = ["asr", "dialect", "emotion", "summarization"]
STYLE = "<style>@media (prefers-color-scheme:dark){" + "".join(f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in DARK.items()) + "}</style>"
WINDOW = 24  # Steps that a point of a loss curve averages.
FONT = 'font-family="Inter, Helvetica, Arial, sans-serif"'


def losses(lines: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Per task, the mean loss of each window of steps."""
    curves: dict[str, list[tuple[int, float]]] = {}
    steps = [line for line in lines if line["kind"] == "train"]
    for start in range(0, len(steps), WINDOW):
        window = steps[start : start + WINDOW]
        for task in sorted({task for line in window for task in line["tasks"]}):
            values = [line["tasks"][task]["loss"] for line in window if task in line["tasks"]]
            curves.setdefault(task, []).append((window[len(window) // 2]["step"], sum(values) / len(values)))
    return curves


def scores(lines: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Per score, its value at every evaluation, without the mean of them and without the controls."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        if line["kind"] == "eval" and not line.get("control"):
            for name, value in line["scores"].items():
                if name != "mean":
                    curves.setdefault(name, []).append((line["at_step"], value))
    return curves


def tasks_of_sets(run: Path) -> dict[str, str]:
    """The task of each evaluated set, as the first of its predictions says it."""
    found: dict[str, str] = {}
    for path in sorted(run.glob("eval/step-*/*.jsonl")):
        with path.open(encoding="utf-8") as file:
            found.setdefault(path.stem, json.loads(file.readline())["task"])
    return found


def colours(tasks: list[str]) -> list[str]:
    """Each task's colour; other tasks take the remaining colours, in the order of their names."""
    others = sorted(set(tasks) - set(TASKS))
    return [COLOURS[TASKS.index(task) if task in TASKS else (len(TASKS) + others.index(task)) % len(COLOURS)] for task in tasks]


def panel(x: int, title: str, curves: dict[str, list[tuple[int, float]]], tasks: list[str], top: float, last: int) -> str:
    """One plot with its axes; `top` is the largest value that is shown."""
    right, bottom = x + WIDTH - 130, TOP + HEIGHT

    def place(step: int, value: float) -> tuple[float, float]:
        return x + (right - x) * step / last, bottom - HEIGHT * min(value, top) / top

    parts = [f'<text x="{x}" y="{TOP - 14}" font-size="14" font-weight="600" fill="#1f2328">{html.escape(title)}</text>']
    for i in range(5):
        y, value = bottom - HEIGHT * i / 4, top * i / 4
        parts.append(f'<line x1="{x}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/><text x="{x - 8}" y="{y + 4:.1f}" font-size="11" text-anchor="end" fill="#57606a">{value:g}</text>')
    for i in range(5):
        step = last * i // 4
        parts.append(f'<text x="{place(step, 0)[0]:.1f}" y="{bottom + 18}" font-size="11" text-anchor="middle" fill="#57606a">{step}</text>')
    parts.append(f'<text x="{(x + right) / 2}" y="{bottom + 36}" font-size="11" text-anchor="middle" fill="#57606a">step</text>')
    ranked = sorted(zip(colours(tasks), curves.items()), key=lambda curve: -place(0, curve[1][1][-1][1])[1])
    label_y = bottom + 15.0
    for colour, (name, points) in ranked:
        drawn = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(*point) for point in points))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        # Names are beside the ends of their curves, from the lowest up, without overlap.
        label_y = min(place(*points[-1])[1], label_y - 15)
        parts.append(f'<text x="{right + 8}" y="{label_y + 4:.1f}" font-size="12" fill="{colour}">{html.escape(name)}</text>')
    return "\n".join(parts)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines = [json.loads(line) for line in (Path(sys.argv[1]) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max(line["step"] for line in lines if line["kind"] == "train")
    by_task, by_score = losses(lines), scores(lines)
    width, height = LEFT + 2 * WIDTH + GAP, TOP + HEIGHT + 50
    second = LEFT + WIDTH + GAP
    sets = tasks_of_sets(Path(sys.argv[1]))
    of_scores = [sets.get(name.rsplit(".", 1)[0], name) for name in by_score]
    body = panel(LEFT, f"training loss (mean of {WINDOW} steps)", by_task, list(by_task), 4.0, last) + "\n" + panel(second, "dev scores", by_score, of_scores, 1.0, last)
    Path(sys.argv[2]).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {FONT}>\n'
        f'{STYLE}\n<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
