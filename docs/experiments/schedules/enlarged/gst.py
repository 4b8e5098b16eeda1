"""Writes the GST-style recipes of a base from the stages that `maqam plan --affinity` found.

    maqam plan docs/experiments/schedules/enlarged/recipes/uniform.yaml --affinity --affinity-stages runs/gst-a.yaml
    python docs/experiments/schedules/enlarged/gst.py a runs/gst-a.yaml         # needs nothing but Python 3.10

The stages introduce groups of tasks one after the other, the group that is farthest from the others first: recipes/gst-a.yaml. The control recipes/gst-reverse-a.yaml
introduces the same groups in the opposite order. Both mix the tasks of a stage uniformly, as recipes/uniform.yaml does.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NUM_STEPS = 160
STAGE = "    - {name: mixed, tasks: all, mix: uniform, steps: 160}\n"
HEADS = {
    "gst": "# GST-style: groups of tasks by the directions of their gradients on base-{base}, the group that is farthest from the others first.",
    "gst-reverse": "# Control for the order of gst-{base}.yaml: the same groups, the nearest first.",
}


def tasks_of_stages(text: str) -> list[list[str]]:
    """The tasks of each stage, from the lines that --affinity-stages writes."""
    stages: list[list[str]] = []
    for line in text.splitlines():
        match line.split():
            case ["-", "name:", _]:
                stages.append([])
            case ["-", task] if stages:
                stages[-1].append(task)
    return stages


def groups_of(stages: list[list[str]]) -> list[list[str]]:
    """What each stage adds to the one before."""
    before = [[], *stages[:-1]]
    return [[task for task in stage if task not in earlier] for stage, earlier in zip(stages, before, strict=True)]


def recipe(name: str, base: str, groups: list[list[str]]) -> str:
    text = (HERE / "recipes/uniform.yaml").read_text(encoding="utf-8")
    assert text.count(STAGE) == 1 and text.count("uniform.yaml") == 1 and text.count("name: uniform\n") == 1
    lines, known = [], []
    for number, group in enumerate(groups, 1):
        known += group
        steps = NUM_STEPS * number // len(groups) - NUM_STEPS * (number - 1) // len(groups)
        lines.append(f"    - {{name: group-{number}, tasks: [{', '.join(known)}], mix: uniform, steps: {steps}}}\n")
    head, _, rest = text.partition("\n")
    assert head.startswith("# ")
    rest = rest.replace(STAGE, "".join(lines)).replace("uniform.yaml", f"{name}-{base}.yaml").replace("name: uniform\n", f"name: {name}\n")
    rest = rest.replace("data/models/schedules-a", f"data/models/schedules-{base}")
    return f"{HEADS[name].format(base=base)}\n{rest}"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base, stages = sys.argv[1], Path(sys.argv[2])
    groups = groups_of(tasks_of_stages(stages.read_text(encoding="utf-8")))
    tasks = sorted(task for group in groups for task in group)
    assert tasks == ["asr", "dialect", "emotion", "summarization"] and all(groups), groups
    for name, ordered in (("gst", groups), ("gst-reverse", groups[::-1])):
        path = HERE / f"recipes/{name}-{base}.yaml"
        path.write_text(recipe(name, base, ordered), encoding="utf-8")
        print(f"{path}: {' + '.join('(' + ', '.join(group) + ')' for group in ordered)}")


if __name__ == "__main__":
    main()
