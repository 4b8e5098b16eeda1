"""Forecast of a training step of the 7B shape on one H200, by phase and by kind of kernel.

    python3 benches/gpu/forecast.py          prints the table of docs/performance.md

Products are counted in tiles over the GPU's multiprocessors, attention in blocks on the slots that its
registers leave, everything else in bytes. The constants are estimates: a measurement replaces them.
Needs only Python.
"""

import heapq
import math
import sys
from collections import defaultdict

MULTIPROCESSORS = 132
# Products in bf16 whose tiles fill every multiprocessor, under the power of a whole step.
PRODUCTS = 740e12
# Products in fp8: forward with fast accumulation, back without.
FP8_FORWARD, FP8_BACK = 1215e12, 1030e12
# Tiles that cuBLASLt chooses from, and their rate against the largest's.
TILES = [(128, 256, 1.0), (256, 128, 1.0), (192, 128, 0.95), (128, 128, 0.9), (64, 256, 0.85)]
# Time of a tile's beginning and end, as columns of its inner dimension.
TILE_ENDS = 190
# Bytes per second: element-wise kernels, thin products of adapters, rounding rows to fp8.
BYTES, THIN, ROUNDING = 3.4e12, 2.2e12, 2.6e12
LAUNCH_S = 2.5e-6

LAYERS, WIDTH, FFN, VOCABULARY = 28, 3584, 18944, 152064
HEADS, KEY_HEADS, HEAD_DIM, QKV = 28, 4, 128, 4608
TOWER_LAYERS, TOWER_WIDTH, TOWER_FFN = 32, 1280, 5120
ROOM = 64
DECODER, HEAD, TOWER = 6.5253e9, 0.5450e9, 0.6391e9

# A layer's linears: inputs, outputs, and whether in bf16 one product is the layer's and its adapter's,
# forward and back.
LINEARS = {
    "qkv": (WIDTH, QKV, True, False),
    "output": (WIDTH, WIDTH, False, True),
    "gate_up": (WIDTH, 2 * FFN, True, True),
    "down": (FFN, WIDTH, True, True),
}
# Outputs of a layer's up-projections, and their rank.
UPS = {"qkv": [WIDTH, 512, 512], "output": [WIDTH], "gate_up": [FFN, FFN], "down": [WIDTH]}
RANK = 16
# Bytes of element-wise kernels for each token of the decoder, all layers: forward, back, and norms and
# SwiGLU once more. Kernels of a layer for each of them.
ELEMENTWISE = {"forward": (4.8e6, 5), "back": (7.2e6, 7), "again": (4.0e6, 3)}
# Kernels of a layer's adapters, forward and back.
ADAPTER_KERNELS = (8, 28)
# Bytes per position that the tower reads and writes outside its products, with GELU's arithmetic as bytes.
TOWER_BYTES = 2.3e6
OPTIMISER_S = 0.7e-3

# Attention: rate of full tiles, blocks that share a multiprocessor, products of a tile.
ATTENTION = {
    "forward": (215e12, 3, 2),
    "queries": (170e12, 2, 3),
    "keys": (150e12, 2, 4),
}
# Blocks of the pass over keys that each place for one should have; with fewer, a block has fewer query heads
# and writes its part of dK and dV in f32 (ops/cuda/attention.rs).
BLOCKS_PER_PLACE = 3
# A tile on the diagonal leaves out groups; a block begins and ends in this many tiles' time.
DIAGONAL, BLOCK_ENDS = 0.63, 0.4
ROWS = 64

# Prompt, audio and target tokens of the examples, frames of their audio.
ASR, SUMMARY = (40, 250, 50, 1000), (40, 1500, 80, 6000)
WORKS = {
    "asr": [ASR] * 16,
    "ssum": [SUMMARY] * 8,
    "mix": [(40, 200, 45, 800), (60, 250, 4, 1000), (60, 100, 4, 400), SUMMARY] * 4,
}
# Work, precision, policy, most tokens of a micro-batch, useful TFLOP/s to reach.
TABLE = [
    ("asr", "bf16", "all", 8192, 520),
    ("asr", "bf16", "norms", 8192, 520),
    ("asr", "bf16", "layer", 8192, None),
    ("mix", "bf16", "all", 8192, 480),
    ("mix", "bf16", "norms", 8192, 480),
    ("mix", "bf16", "all", 16384, 480),
    ("mix", "bf16", "norms", 16384, 480),
    ("ssum", "bf16", "all", 8192, 460),
    ("ssum", "bf16", "norms", 8192, 460),
    ("ssum", "bf16", "layer", 8192, 350),
    ("ssum", "bf16", "all", 16384, 460),
    ("ssum", "bf16", "norms", 16384, 460),
    ("asr", "fp8", "all", 8192, 700),
    ("asr", "fp8", "norms", 8192, 700),
]
PHASES = ["encoder", "decoder_forward", "head", "decoder_backward", "optimiser"]


def product(rows, outputs, inputs, rate=PRODUCTS):
    """Seconds of one product, by waves of the best tile."""
    def took(height, width, share):
        waves = math.ceil(math.ceil(rows / height) * math.ceil(outputs / width) / MULTIPROCESSORS)
        return waves * 2 * height * width * (inputs + TILE_ENDS) / (share * rate / MULTIPROCESSORS)

    return min(took(*tile) for tile in TILES)


def heads_of_block(blocks, slots):
    """Query heads of a block of the pass over keys, where whole groups would be so many blocks."""
    group = HEADS // KEY_HEADS
    for parts in range(1, group + 1):
        of_block = math.ceil(group / parts)
        if blocks * math.ceil(group / of_block) >= BLOCKS_PER_PLACE * slots:
            return of_block
    return 1


def attention(which, lengths):
    """Seconds of one kernel of one decoder layer: its blocks, the longest first, on the slots there are."""
    rate, blocks, products = ATTENTION[which]
    slots = MULTIPROCESSORS * blocks
    tile = products * 2 * ROWS * ROWS * HEAD_DIM / (rate / slots)
    # Query heads that the blocks of a tile walk over in series.
    series, sums = [1] * HEADS, 0.0
    if which == "keys":
        group = HEADS // KEY_HEADS
        of_block = heads_of_block(KEY_HEADS * sum(math.ceil(length / ROWS) for length in lengths), slots)
        parts = math.ceil(group / of_block)
        series = [min(of_block, group - part * of_block) for part in range(parts)] * KEY_HEADS
        if parts > 1:
            # Parts are written and read in f32, their sum is written in bf16.
            moved = sum(lengths) * 2 * KEY_HEADS * HEAD_DIM * (8 * parts + 2)
            sums = moved / BYTES + LAUNCH_S
    work = []
    for length in lengths:
        for first in range(0, length, ROWS):
            full = (length - first - 1) // ROWS if which == "keys" else first // ROWS
            work += [(full + DIAGONAL) * heads + BLOCK_ENDS for heads in series]
    ends = [0.0] * slots
    for one in sorted(work, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends) * tile + LAUNCH_S + sums


def packs(work, pack_tokens):
    """Examples of each micro-batch, in order, as many as fit."""
    found, tokens = [[]], 0
    for example in WORKS[work]:
        length = sum(example[:3])
        if found[-1] and tokens + length > pack_tokens:
            found, tokens = found + [[]], 0
        found[-1].append(example)
        tokens += length
    return found


def up_bytes(tokens, columns):
    """Bytes of the backward of one up-projection: dY once, and the parts of both gradients (ops/cuda/adapter.rs)."""
    chunks, tiles = math.ceil(columns / 512), math.ceil(tokens / 64)
    splits = min(max(MULTIPROCESSORS * 3 // chunks, 1), tiles)
    splits = math.ceil(tiles / math.ceil(tiles / splits))
    return 2 * tokens * columns + 8 * RANK * (tokens * chunks + columns * splits)


def adapter_bytes(tokens, is_fp8):
    """Bytes of a layer that adapters read and write, forward and backward."""
    forward = back = 0
    for name, (inputs, outputs, is_joined, is_joined_back) in LINEARS.items():
        forward += tokens * (2 * inputs + (0 if is_joined and not is_fp8 else 4 * outputs))
        back += sum(up_bytes(tokens, columns) for columns in UPS[name])
        back += tokens * (2 * inputs + (0 if is_joined_back and not is_fp8 else 4 * inputs))
    return forward, back


def decoder_products(tokens, targets, is_fp8):
    """Seconds of all frozen products forward, those of `down` alone, and back."""
    def layer(rows_after):
        forward, back = {}, {}
        for name, (inputs, outputs, is_joined, is_joined_back) in LINEARS.items():
            rows = tokens if name == "qkv" else rows_after
            wider = ROOM if is_joined and not is_fp8 else 0
            wider_back = ROOM if is_joined_back and not is_fp8 else 0
            forward[name] = product(rows, outputs, inputs + wider, FP8_FORWARD if is_fp8 else PRODUCTS)
            back[name] = product(rows, inputs, outputs + wider_back, FP8_BACK if is_fp8 else PRODUCTS)
        return forward, back

    # After the last attention only target rows are computed.
    forward, back = layer(tokens)
    last, last_back = layer(targets)
    return (
        (LAYERS - 1) * sum(forward.values()) + sum(last.values()),
        (LAYERS - 1) * forward["down"] + last["down"],
        (LAYERS - 1) * sum(back.values()) + sum(last_back.values()),
    )


def encoder(examples):
    positions = sum(example[3] for example in examples) // 2
    shapes = [(3 * TOWER_WIDTH, TOWER_WIDTH), (TOWER_WIDTH, TOWER_WIDTH), (TOWER_FFN, TOWER_WIDTH), (TOWER_WIDTH, TOWER_FFN)]
    layer = sum(product(positions, outputs, inputs) for outputs, inputs in shapes)
    # Two convolutions, the first at twice the positions, and the projection of pairs.
    ends = product(2 * positions, TOWER_WIDTH, 3 * 128) + product(positions, TOWER_WIDTH, 3 * TOWER_WIDTH)
    ends += product(positions // 2, WIDTH, TOWER_WIDTH)
    return {
        "tower products": TOWER_LAYERS * layer + ends,
        "tower rest": positions * TOWER_BYTES / BYTES + TOWER_LAYERS * 9 * LAUNCH_S,
    }


def head(targets):
    products = product(targets, VOCABULARY, WIDTH) + product(targets, WIDTH, VOCABULARY)
    return {"head products": products, "loss": targets * VOCABULARY * 6 / BYTES + 4 * LAUNCH_S}


def micro_batch(examples, precision, save):
    """Seconds of a micro-batch, by phase and kind of kernel."""
    is_fp8 = precision == "fp8"
    lengths = [sum(example[:3]) for example in examples]
    tokens, targets = sum(lengths), sum(example[2] for example in examples)
    products, down, products_back = decoder_products(tokens, targets, is_fp8)
    moved, moved_back = adapter_bytes(tokens, is_fp8)

    def bytes_of(which):
        moves, kernels = ELEMENTWISE[which]
        return tokens * moves / BYTES + LAYERS * kernels * LAUNCH_S

    forward = {
        "products": products,
        "attention forward": LAYERS * attention("forward", lengths),
        "element-wise": bytes_of("forward"),
        "adapters": LAYERS * (moved / THIN + ADAPTER_KERNELS[0] * LAUNCH_S),
    }
    back = {
        "products": products_back,
        "attention queries": LAYERS * attention("queries", lengths),
        "attention keys": LAYERS * attention("keys", lengths),
        "element-wise": bytes_of("back"),
        "adapters": LAYERS * (moved_back / THIN + ADAPTER_KERNELS[1] * LAUNCH_S),
    }
    if is_fp8:
        forward["rounding"] = LAYERS * tokens * 3 * sum(linear[0] for linear in LINEARS.values()) / ROUNDING
        back["rounding"] = LAYERS * tokens * 3 * sum(linear[1] for linear in LINEARS.values()) / ROUNDING
    if save == "norms":
        back["element-wise"] += bytes_of("again")
    if save == "layer":
        for kind, seconds in forward.items():
            back[kind] = back.get(kind, 0.0) + seconds - (down if kind == "products" else 0.0)
    return {
        "encoder": encoder(examples),
        "decoder_forward": forward,
        "head": head(targets),
        "decoder_backward": back,
    }


def step(work, precision, save, pack_tokens=8192):
    """Seconds of a step: phase to kind of kernel to seconds."""
    found = {phase: defaultdict(float) for phase in PHASES}
    for examples in packs(work, pack_tokens):
        for phase, kinds in micro_batch(examples, precision, save).items():
            for kind, seconds in kinds.items():
                found[phase][kind] += seconds
    found["optimiser"]["optimiser"] = OPTIMISER_S
    return {phase: dict(kinds) for phase, kinds in found.items()}


def by_phase(*given):
    return {phase: sum(kinds.values()) for phase, kinds in step(*given).items()}


def by_kind(*given):
    found = defaultdict(float)
    for kinds in step(*given).values():
        for kind, seconds in kinds.items():
            found[kind] += seconds
    return dict(found)


def useful_flops(work):
    """Operations that a step cannot do without: recomputation, attention, adapters and padding do not count."""
    examples = WORKS[work]
    tokens = sum(sum(example[:3]) for example in examples)
    targets, frames = (sum(example[i] for example in examples) for i in (2, 3))
    return 4 * DECODER * tokens + 4 * HEAD * targets + 2 * TOWER * (frames // 2)


def useful_tflops(*given):
    return useful_flops(given[0]) / sum(by_phase(*given).values()) / 1e12


def name_of(work, precision, save, pack_tokens):
    return f"`{work}`, {precision}, {save}" + ("" if pack_tokens == 8192 else f", packs of {pack_tokens:,}")


def main():
    print("| work | encoder | decoder forward | head | decoder backward | optimiser | step | useful TFLOP/s | target | measured |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for *given, target in TABLE:
        phases = by_phase(*given)
        times = " | ".join(f"{phases[phase] * 1e3:.1f}" for phase in PHASES)
        total = sum(phases.values()) * 1e3
        print(f"| {name_of(*given)} | {times} | {total:.0f} | {useful_tflops(*given):.0f} | {target or ''} | |")
    print("\n| kind of kernel | " + " | ".join(name_of(*given[:4]) for given in KINDS) + " |")
    print("|---|" + "---|" * len(KINDS))
    found = [by_kind(*given) for given in KINDS]
    for kind in dict.fromkeys(kind for kinds in found for kind in kinds):
        print(f"| {kind} | " + " | ".join(f"{kinds[kind] * 1e3:.1f}" if kind in kinds else "" for kinds in found) + " |")


# Steps whose kinds of kernels the second table lists.
KINDS = [
    ("asr", "bf16", "all", 8192),
    ("mix", "bf16", "norms", 16384),
    ("ssum", "bf16", "norms", 16384),
    ("ssum", "bf16", "layer", 8192),
    ("asr", "fp8", "norms", 8192),
]

if __name__ == "__main__":
    sys.exit(main())
