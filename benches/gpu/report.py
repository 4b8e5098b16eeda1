"""The table of one run of benches/gpu/check.sh: targets beside what was found, and the time by phase where one is missed.

    python3 benches/gpu/report.py OUT          reads OUT/results.jsonl and OUT/peers-*.jsonl, prints Markdown

Needs Python alone. Predictions are arithmetic, of the 7B shape on one H200: docs/performance.md, "On one GPU", derives them.
"""

import json
import sys
from pathlib import Path

# Work, precision, the most GB where that is part of it, useful TFLOP/s to reach, and the best peer's on one H200.
TARGETS = [
    ("asr", "bf16", None, 520, 345),
    ("mix", "bf16", None, 480, 292),
    ("ssum", "bf16", None, 460, 227),
    ("ssum", "bf16", 23.2, 350, 227),
    ("asr", "fp8", None, 700, 345),
]

# Tokens of a step, target tokens, frames, and the sum of the squares of the sequences' lengths.
WORKS = {
    "asr": (5440, 800, 16000, 16 * 340**2),
    "mix": (9532, 532, 32800, 4 * (285**2 + 314**2 + 164**2 + 1620**2)),
    "ssum": (12960, 640, 48000, 8 * 1620**2),
}
DECODER, HEAD, TOWER = 6.5253e9, 0.5450e9, 0.6391e9
LAYERS, WIDTH = 28, 3584
# Rates that the predictions assume: products in bf16 and fp8, attention of our own, bytes.
PRODUCTS, PRODUCTS_FP8, ATTENTION, BYTES_PER_S = 720e12, 1200e12, 200e12, 3.4e12
# The tower with its norms, activations and windows, over its products alone.
TOWER_REST = 1.35
# Bytes a token moves: element-wise passes forward and back, norms and SwiGLU once more.
ELEMENTWISE, NORMS_AGAIN = (5.8e6, 10.6e6), 4.0e6
# A layer's linears: inputs, outputs, and whether in bf16 one product is the layer's and its adapter's, forward and back. Where it is, its
# inner dimension is wider by the room.
LINEARS = [(3584, 4608, True, False), (3584, 3584, False, True), (3584, 37888, True, True), (18944, 3584, True, True)]
ROOM = 64
# The part of the decoder's products that saving layer inputs alone computes twice: all but the projection down.
AGAIN = 1 - 18944 * 3584 / 233.046e6
OPTIMISER_S = 0.4e-3


def adapters(is_fp8):
    """Bytes that a token's adapters move forward and back, those of rounding to 8 bits with them; how much wider rooms make the products."""
    forward = back = wider = wider_back = weights = 0
    for inputs, outputs, is_joined, is_joined_back in LINEARS:
        joined, joined_back = is_joined and not is_fp8, is_joined_back and not is_fp8
        # The input is read; an output that is not joined is written and read once more. Back, the gradient is read twice, the input once.
        forward += 2 * inputs + (0 if joined else 4 * outputs) + (3 * inputs if is_fp8 else 0)
        back += 4 * outputs + 2 * inputs + (0 if joined_back else 4 * inputs) + (3 * outputs if is_fp8 else 0)
        wider += ROOM * outputs if joined else 0
        wider_back += ROOM * inputs if joined_back else 0
        weights += inputs * outputs
    return LAYERS * forward, LAYERS * back, wider / weights, wider_back / weights


def predicted(work, precision, save):
    """Seconds of each phase."""
    tokens, targets, frames, squares = WORKS[work]
    products = 2 * DECODER * tokens / (PRODUCTS_FP8 if precision == "fp8" else PRODUCTS)
    attention = 2 * squares * WIDTH * LAYERS / ATTENTION
    moved, moved_back, wider, wider_back = adapters(precision == "fp8")
    forward = products * wider + tokens * (ELEMENTWISE[0] + moved) / BYTES_PER_S
    back = products * wider_back + tokens * (ELEMENTWISE[1] + moved_back) / BYTES_PER_S
    again = {"all": 0.0, "norms": tokens * NORMS_AGAIN / BYTES_PER_S, "layer": AGAIN * products + forward}[save]
    return {
        "encoder": 2 * TOWER * (frames // 2) / PRODUCTS * TOWER_REST,
        "decoder_forward": products + attention + forward,
        "head": 4 * HEAD * targets / PRODUCTS,
        "decoder_backward": products + 2.5 * attention + back + again,
        "optimiser": OPTIMISER_S,
    }


def useful_flops(work):
    tokens, targets, frames, _ = WORKS[work]
    return 4 * DECODER * tokens + 4 * HEAD * targets + 2 * TOWER * (frames // 2)


def lines(path):
    """Every line of JSON in a file; what a killed program left half written is not one."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def is_measured(part):
    return part["rc"] == 0 and isinstance(part["found"], dict) and bool(part["found"].get("useful_tflops"))


def machine(parts):
    for part in parts:
        if part["part"] == "machine":
            found = part["found"] or {}
            yield f"Card: {found.get('card', part['error'])}"
            if found.get("missing_libraries"):
                yield f"Libraries that were not found: {found['missing_libraries']}"


def targets(benches):
    yield "| work | precision | most GB | target | found | save | GB | step ms | best peer, one H200 | |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for work, precision, most, target, peer in TARGETS:
        head = f"| {work} | {precision} | {most or ''} | {target} |"
        fitting = [f for name, f in benches if name[:2] == (work, precision) and (most is None or (f["peak_memory_gb"] or 1e9) <= most)]
        if not fitting:
            yield f"{head} | | | | {peer} | not measured |"
            continue
        best = max(fitting, key=lambda f: f["useful_tflops"])
        verdict = "reached" if best["useful_tflops"] >= target else f"missed: {best['useful_tflops'] / target:.0%} of it"
        memory = f"{best['peak_memory_gb']:.1f}" if best["peak_memory_gb"] else ""
        yield f"{head} {best['useful_tflops']:.3g} | {best['save']} | {memory} | {best['seconds_per_step'] * 1e3:.1f} | {peer} | {verdict} |"


def phases(benches):
    """Where the time of each measurement went, beside what arithmetic expects."""
    for (work, precision, save), found in benches:
        measured = found.get("phases_s") or {}
        if not measured:
            continue
        expected = predicted(work, precision, save)
        yield f"\n{work}, {precision}, save {save}: {found['useful_tflops']:.3g} TFLOP/s, step {found['seconds_per_step'] * 1e3:.1f} ms\n"
        yield "| phase | ms | predicted ms | ratio |"
        yield "|---|---|---|---|"
        for name in [*measured, *(name for name in expected if name not in measured)]:
            yield beside(name, measured.get(name), expected.get(name))
        yield beside("all phases", sum(measured.values()), sum(expected.values()))


def beside(name, took, guess):
    ms = [f"{seconds * 1e3:.2f}" if seconds is not None else "" for seconds in (took, guess)]
    return f"| {name} | {ms[0]} | {ms[1]} | {f'{took / guess:.2f}' if took and guess else ''} |"


def peers(out):
    rows = [row for path in sorted(out.glob("peers-*.jsonl")) for row in lines(path)]
    for row in rows:
        if "ceiling" in row:
            yield f"\nMatrix products alone, bf16: {row['ceiling']['tflops']} TFLOP/s through the decoder; {row['ceiling']['products']}\n"
            break
    rows = [row for row in rows if "peer" in row]
    if not rows:
        yield "No peers ran."
        return
    yield "| work | peer | step ms | examples/s | real tok/s | useful TFLOP/s | GB | loss |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "error" in row:
            yield f"| {row['work']} | {row['peer']} | {row['error']} | | | | | |"
        else:
            rates = f"{row['step_ms']:.1f} | {row['examples_per_s']:.2f} | {row['tokens_per_s']:.0f} | {row['useful_tflops']:.3g}"
            yield f"| {row['work']} | {row['peer']} | {rates} | {row['peak_gb'] or 0:.1f} | {row['loss']:.5f} |"


def every_part(parts):
    yield "| part | exit | s | |"
    yield "|---|---|---|---|"
    for part in parts:
        said = (part["error"] or "").replace("|", "/")
        yield f"| {part['part']} | {'' if part['rc'] is None else part['rc']} | {part['seconds']} | {said[-300:]} |"


def main():
    out = Path(sys.argv[1])
    parts = lines(out / "results.jsonl")
    names = [tuple(part["part"].split("-")[1:]) for part in parts]
    benches = [(name, part["found"]) for name, part in zip(names, parts) if part["part"].startswith("bench-") and is_measured(part)]
    print("# One card, measured\n")
    print("\n".join(machine(parts)))
    print("\n## Targets: useful TFLOP/s on one H200\n")
    print("\n".join(targets(benches)))
    print("\n## Time by phase")
    print("\n".join(phases(benches)) or "\nNone was measured.")
    print("\n## Peers in this run\n")
    print("\n".join(peers(out)))
    print("\n## Every part\n")
    print("\n".join(every_part(parts)))


if __name__ == "__main__":
    main()
