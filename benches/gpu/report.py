"""The report of the GPU check: passed parts, targets and measurements, times and forecast.

    python3 benches/gpu/report.py RESULTS.jsonl [MORE.jsonl ...] [--smi smi.csv]

Prints Markdown. Of several files the last line of a part counts. Needs only Python. Forecasts are
arithmetic for the 7B shape on one H200: forecast.py derives them.
"""

import json
import re
import statistics
import sys
import time
from pathlib import Path

import forecast

# Work, precision, the most GB where that is part of it, useful TFLOP/s to reach, and the best peer's on one H200.
TARGETS = [
    ("asr", "bf16", None, 520, 345),
    ("mix", "bf16", None, 480, 292),
    ("ssum", "bf16", None, 460, 227),
    ("ssum", "bf16", 23.2, 350, 227),
    ("asr", "fp8", None, 700, 345),
]
# Rows of a table of kernels.
MOST_KERNELS = 40


def is_bench(line):
    """Returns whether a part is a measurement. With a wait after every launch it is none."""
    found, name = line.get("found"), line["part"]
    is_one = name.startswith("bench-") and not name.endswith("-checked")
    return is_one and isinstance(found, dict) and "seconds_per_step" in found


def key_of(line):
    """Work, precision, policy and most tokens of a micro-batch, of the part's name."""
    words = line["part"].split("-")[1:]
    return (*words[:3], int(words[3]) if len(words) > 3 else 8192)


def table(head, rows):
    rows = [[cell(value) for value in row] for row in rows]
    if not rows:
        return
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def cell(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


# ---- Sections, each a generator of lines ----


def verdict(lines, _):
    states = {}
    for line in lines:
        states.setdefault(line["state"], []).append(line["part"])
    yield f"{len(lines)} parts: " + ", ".join(f"{len(parts)} {state}" for state, parts in states.items()) + "."
    for state, parts in states.items():
        if state not in ("passed",):
            yield f"- {state}: {', '.join(parts)}"


def machine(lines, _):
    for line in lines:
        if line["part"] != "machine":
            continue
        found = line["found"] or {}
        yield f"GPU: {cell(found.get('gpu'))}; {found.get('cores')} cores; Python {found.get('python')}"
        absent = [name for name, place in (found.get("tools") or {}).items() if not place]
        if absent:
            yield f"Not there: {', '.join(absent)}."
        if found.get("missing_libraries"):
            yield f"Libraries that were not found: {found['missing_libraries']}."


def self_check(lines, _):
    """Every primitive that failed, and the nearest to its bar of those that passed."""
    for line in lines:
        if line["part"] not in ("self-check", "self-check-checked"):
            continue
        found = [one for one in line.get("lines") or [line["found"]] if one and "primitive" in one]
        failed = [one for one in found if not one.get("passes")]
        yield f"{line['part']}: {len(found)} checks, {len(failed)} failed, {line['state']} after {line['seconds']} s.\n"
        near = [one for one in found if one.get("passes") and one.get("bar")]
        near.sort(key=lambda one: -(one.get("largest_error") or 0) / one["bar"])
        shown = failed + near[:5]
        yield from table(
            ["primitive", "shape", "rows", "largest error", "bar", "", "error"],
            [
                [one["primitive"], one.get("shape"), one.get("rows_checked"), one.get("largest_error"), one.get("bar"),
                 "passes" if one.get("passes") else "FAILS", cell(one.get("error"))[:200]]
                for one in shown
            ],
        )
        yield ""


def compare(lines, _):
    for line in lines:
        if line["part"] == "compare" and line["found"]:
            yield f"{line['state']} after {line['seconds']} s: `{json.dumps(line['found'])[:1500]}`"


def tests(lines, _):
    alone = {line["part"]: line["state"] for line in lines}
    for line in lines:
        if not line["part"].startswith("tests-"):
            continue
        found = line["found"]
        if not found:
            yield f"{line['part']}: {line['state']}."
            continue
        yield f"{line['part']}: {found['passed']} of {found['tests']} passed, {line['state']} after {line['seconds']} s."
        program = line["part"][len("tests-"):]
        for test in found["failed"] + found["unfinished"]:
            name = f"test-{program}-{test}"
            how = "failed" if test in found["failed"] else "did not end"
            more = [f"{part[len(name) + 1:]}: {state}" for part, state in alone.items() if part.startswith(name + "-")]
            yield f"- {test} {how}; alone: {alone.get(name, 'not run')}" + "".join(f"; {one}" for one in more)


def targets(lines, _):
    benches = [(key_of(line), line["found"]) for line in lines if is_bench(line) and line["state"] == "passed"]
    benches = [(key, found) for key, found in benches if found.get("useful_tflops")]
    rows = []
    for work, precision, most, target, peer in TARGETS:
        fitting = [
            (key, found) for key, found in benches
            if key[:2] == (work, precision) and (most is None or (found.get("peak_memory_gb") or 1e9) <= most)
        ]
        if not fitting:
            rows.append([work, precision, most, target, None, None, None, None, peer, "not measured"])
            continue
        key, best = max(fitting, key=lambda one: one[1]["useful_tflops"])
        is_reached = best["useful_tflops"] >= target
        said = "reached" if is_reached else f"missed: {best['useful_tflops'] / target:.0%} of it"
        rows.append([
            work, precision, most, target, f"{best['useful_tflops']:.3g}", f"{key[2]}, {key[3]}",
            f"{best['peak_memory_gb']:.1f}" if best.get("peak_memory_gb") else None,
            f"{best['seconds_per_step'] * 1e3:.1f}", peer, said,
        ])
    head = ["work", "precision", "most GB", "target", "found", "save, pack", "GB", "step ms", "best peer, one H200", ""]
    yield from table(head, rows)


def ceilings(lines, _):
    for line in lines:
        found = line["found"] or {}
        if line["part"] == "ceiling" and "tflops" in found:
            yield (
                f"PyTorch's matrix products alone in this call: {found['tflops']} TFLOP/s through the decoder; "
                f"a copy moves {found.get('copy_gb_per_s')} GB/s. By product: {cell(found['products'])}"
            )


def ceiling_of(lines):
    found = [line["found"]["tflops"] for line in lines if line["part"] == "ceiling" and line["found"]]
    return found[-1] if found else None


def rates(lines, smi):
    """Every measurement beside its forecast and the ceiling, with clocks and power of its time."""
    ceiling, clocks, rows = ceiling_of(lines), samples(smi), []
    for line in lines:
        if not is_bench(line):
            continue
        key, found = key_of(line), line["found"]
        useful = found.get("useful_tflops")
        guess = is_7b(found) and is_known(key) and forecast.useful_tflops(*key)
        mhz, watts = during(clocks, line)
        rows.append([
            line["part"], found["seconds_per_step"] * 1e3, useful, guess or None,
            f"{useful / guess:.2f}" if guess and useful else None, ceiling,
            f"{useful / ceiling:.0%}" if ceiling and useful else None, found.get("peak_memory_gb"),
            found.get("reserved_memory_gb"), found.get("least_free_memory_gb"), milliseconds(found.get("host_seconds")), mhz, watts,
        ])
    head = ["part", "step ms", "useful TFLOP/s", "forecast", "ratio", "ceiling", "of it", "GB", "reserved", "least free", "host ms", "SM MHz", "W"]
    yield from table(head, rows)


def milliseconds(seconds):
    return None if seconds is None else round(seconds * 1e3, 1)


def losses(lines, _):
    """Losses of save policies, which must be equal to the bit, and of fp8 beside bf16."""
    found = {key_of(line): line["found"].get("losses") for line in lines if is_bench(line) and line["state"] == "passed"}
    found = {key: values for key, values in found.items() if values}
    for (work, precision, save, tokens), values in found.items():
        if None in values:
            yield f"- {work}, {precision}, packs of {tokens}, `{save}`: NO NUMBER in {values.count(None)} of {len(values)} steps"
    found = {key: values for key, values in found.items() if None not in values}
    groups = {}
    for (work, precision, save, tokens), values in found.items():
        groups.setdefault((work, precision, tokens), []).append((save, values))
    compared = False
    for (work, precision, tokens), policies in groups.items():
        for save, values in policies[1:]:
            first, expected = policies[0]
            compared = True
            count = min(len(values), len(expected))
            wrong = [i for i in range(count) if values[i] != expected[i]]
            said = f"all {count} losses are equal to the bit"
            if wrong:
                i = wrong[0]
                said = f"DIFFERS in {len(wrong)} of {count} steps, first in step {i + 1}: {values[i]!r} and {expected[i]!r}"
            yield f"- {work}, {precision}, packs of {tokens}: `{save}` beside `{first}`: {said}"
    if not compared:
        yield "- No two policies were measured on the same micro-batches."
    for (work, precision, save, tokens), values in found.items():
        plain = found.get((work, "bf16", save, tokens))
        if precision == "fp8" and plain:
            apart = [eight - sixteen for eight, sixteen in zip(values, plain)]
            largest = max(apart, key=abs)
            yield (
                f"- {work}, {save}: fp8 minus bf16 is {statistics.fmean(apart):+.5f} in the mean of {len(apart)} steps, "
                f"{largest:+.5f} at the most, at losses of {statistics.fmean(plain):.4f}"
            )


def phases(lines, _):
    """Time of each measurement by phase, beside the forecast."""
    for line in lines:
        if not is_bench(line) or not line["found"].get("phases_s"):
            continue
        key, measured = key_of(line), line["found"]["phases_s"]
        guess = forecast.by_phase(*key) if is_7b(line["found"]) and is_known(key) else {}
        yield f"\n{line['part']}: step {line['found']['seconds_per_step'] * 1e3:.1f} ms\n"
        names = [*measured, *(name for name in guess if name not in measured)]
        rows = [beside(name, measured.get(name), guess.get(name)) for name in names]
        rows.append(beside("all phases", sum(measured.values()), sum(guess.values()) or None))
        yield from table(["phase", "ms", "forecast ms", "ratio"], rows)


def beside(name, took, guess):
    ms = [f"{seconds * 1e3:.2f}" if seconds is not None else None for seconds in (took, guess)]
    return [name, *ms, f"{took / guess:.2f}" if took and guess else None]


def is_7b(found):
    return found.get("shape") == "7b" and not found.get("layers")


def is_known(key):
    return key[0] in forecast.WORKS and key[2] in ("all", "norms", "layer")


def kernels(lines, _):
    """Time by kernel and product of the profiled steps, beside the forecast of their kind."""
    for line in lines:
        profile = (line["found"] or {}).get("profile")
        if not profile:
            continue
        yield f"\n{line['part']}\n"
        yield from profile_of(line, profile)


def profile_of(line, rows):
    rows = sorted(rows, key=lambda row: -row["ms"])
    yield f"{len(rows)} kernels and products of different sizes, {sum(row['ms'] for row in rows):.2f} ms in all.\n"
    key = key_of(line)
    if is_7b(line["found"]) and is_known(key):
        guess, measured = forecast.by_kind(*key), {}
        for row in rows:
            kind = kind_of(row)
            measured[kind] = measured.get(kind, 0.0) + row["ms"] / 1e3
        kinds = sorted({*guess, *measured}, key=lambda kind: -measured.get(kind, 0.0))
        yield from table(
            ["kind", "ms", "forecast ms", "ratio"],
            [beside(kind, measured.get(kind), guess.get(kind)) for kind in kinds],
        )
        yield ""
    names = ["name", "shape", "count", "ms", "gb_per_s", "tflop_per_s"]
    yield from table(names, [[row.get(name) for name in names] for row in rows[:MOST_KERNELS]])


# Kinds of kernels of the forecast, by how their names begin. The tower's attention has heads of 64.
KINDS = [
    ("tower rest", re.compile(r"attention_\w+_64$|gelu|layer_norm|unfold|pool_pairs")),
    ("attention forward", re.compile("attention_forward")),
    ("attention queries", re.compile("attention_backward_queries")),
    ("attention keys", re.compile("attention_backward_keys|sum_attention_parts")),
    ("loss", re.compile("cross_entropy|weighted_sum")),
    ("optimiser", re.compile("adamw|sum_of_squares|root_of_sum|copy_matrices")),
    ("rounding", re.compile("quantise")),
    ("adapters", re.compile("write_beside|adapter_backward|sum_adapter")),
]
# Products with a side of the adapters' ranks are theirs, with one of the vocabulary the head's.
MOST_RANKS = 64


def kind_of(row):
    """The kind of kernel of the forecast that a row of a profile is of."""
    sides = re.match(r"(\d+) x (\d+) x (\d+)", row["shape"])
    if row["name"] == "product" and sides:
        sides = [int(side) for side in sides.groups()]
        if min(sides) <= MOST_RANKS:
            return "adapters"
        if forecast.VOCABULARY in sides:
            return "head products"
        return "tower products" if forecast.TOWER_WIDTH in sides else "products"
    return next((kind for kind, names in KINDS if names.match(row["name"])), "element-wise")


def peers(lines, _):
    rows = []
    for line in lines:
        if line["part"] == "peers":
            rows += [row for row in line.get("lines") or [line["found"] or {}] if "peer" in row]
    if not rows:
        yield "No peers ran."
        return
    shown = [
        [row["work"], row["peer"], row["error"]] + [None] * 7 if "error" in row else
        [row["work"], row["peer"], f"{row['step_ms']:.1f}", f"{row['examples_per_s']:.2f}", f"{row['tokens_per_s']:.0f}",
         f"{row['useful_tflops']:.3g}", row.get("peak_gb"), f"{row['loss']:.5f}", row.get("gradient_cosine"), row.get("attention")]
        for row in rows
    ]
    head = ["work", "peer", "step ms", "examples/s", "real tok/s", "useful TFLOP/s", "GB", "loss", "cosine", "attention"]
    yield from table(head, shown)


def every_part(lines, _):
    shown = [
        [line["part"], line["state"], line["rc"], line["seconds"], cell(line.get("error"))[-300:]] for line in lines
    ]
    yield from table(["part", "", "exit", "s", ""], shown)


# ---- Clocks and power ----


def samples(smi):
    """Seconds since 1970, clock in MHz and power in W, of the lines of nvidia-smi's log."""
    found = []
    try:
        text = Path(smi).read_text(errors="replace") if smi else ""
    except OSError:
        return found
    columns = None
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if words[0] == "timestamp":
            columns = {word.split(" ")[0].replace(".current", ""): i for i, word in enumerate(words)}
            continue
        try:
            whole, _, part = words[0].partition(".")
            at = time.mktime(time.strptime(whole, "%Y/%m/%d %H:%M:%S")) + float("0." + (part or "0"))
            mhz, watts = (float(words[columns[name]].split(" ")[0]) for name in ("clocks.sm", "power.draw"))
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            continue
        found.append((at, mhz, watts))
    return found


def during(clocks, line):
    """Median clock and power while a part ran, its quiet beginning left out."""
    begin = line.get("from")
    if begin is None or not clocks:
        return None, None
    end = begin + (line["seconds"] or 0)
    inside = [one for one in clocks if begin <= one[0] <= end]
    busy = [one for one in inside if one[2] >= 0.6 * max(one[2] for one in inside)]
    if not busy:
        return None, None
    return round(statistics.median(one[1] for one in busy)), round(statistics.median(one[2] for one in busy))


SECTIONS = [
    ("Verdict", verdict),
    ("Machine", machine),
    ("Targets: useful TFLOP/s on one H200", targets),
    ("Self-check at real widths", self_check),
    ("Two layers beside the CPU", compare),
    ("Tests of the engine", tests),
    ("Losses", losses),
    ("Ceilings", ceilings),
    ("Rates", rates),
    ("Peers in this call", peers),
    ("Time by phase", phases),
    ("Time by kernel", kernels),
    ("Every part", every_part),
]
# Sections that fit a screen.
SUMMARY = SECTIONS[:10]


def markdown(lines, smi=None, sections=SECTIONS):
    """The report of the lines. A section that fails has the reason instead."""
    last = {line["part"]: line for line in lines}
    lines = list(last.values())
    found = ["# One GPU, measured"]
    for title, section in sections:
        try:
            text = "\n".join(section(lines, smi))
        except Exception as fault:  # the other sections must not be lost with it
            text = f"This section failed: {type(fault).__name__}: {fault}"
        if text:
            found.append(f"\n## {title}\n\n{text.strip()}")
    return "\n".join(found) + "\n"


def main():
    given = sys.argv[1:]
    smi = None
    if "--smi" in given:
        at = given.index("--smi")
        smi = given[at + 1]
        del given[at : at + 2]
    lines = []
    for path in given:
        text = Path(path).read_text()
        lines += [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
    print(markdown(lines, smi), end="")


if __name__ == "__main__":
    main()
