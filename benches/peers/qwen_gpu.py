"""LoRA training steps of Qwen2.5-Omni's thinker on one GPU with transformers and PEFT: the peers of `maqam bench train --device cuda`.

    pip install torch==2.11.0 transformers==5.17.0 peft==0.21.2 liger-kernel==0.8.5
    python benches/peers/qwen_gpu.py                                   every work, every variant, 7B: about ten minutes on an H200
    python benches/peers/qwen_gpu.py --work asr --variant packed+liger+compile --json rows.jsonl
    python benches/peers/qwen_gpu.py --row mix:packed+liger/packed --row asr:packed    these rows in this order, the second variant if the first fails
    python benches/peers/qwen_gpu.py --shape tiny --device cpu         the same code on a CPU in float32, clips cut to a quarter

A step is the frozen audio tower, decoder, head and loss forward, the backward, gradients clipped to norm 1, AdamW. Works: asr, 16 clips of
10 s; ssum, 8 clips of 60 s; mix, 16 clips of four tasks (thinker.py has the tokens). bfloat16 on a GPU, adapters too, no autocast.
Weights, tokens and audio are random; a batch is on the device before the clock starts.

A row: milliseconds (median of the steps after the warm-up, by CUDA events), examples and real tokens per second (padding does not count),
useful TFLOP/s (thinker.py, `useful_flops`), the most memory torch had allocated, loss of the first step. `cosine` and `error` compare
the first step's adapter gradients with those of the work's first variant that ran: the worst tensor's cosine, and the norm of the
difference over the norm, all tensors together. A variant that does not fit reports that, and the others run.
"""

import argparse
import gc
import json
import statistics
import sys
import time

import torch
import transformers

import ceiling
from thinker import SHAPES, WORKS, batch, build, loads, useful_flops
from variants import VARIANTS, has_liger_kernels, kernel, prepared

LEARNING_RATE, WEIGHT_DECAY, LARGEST_NORM = 1e-4, 0.01, 1.0


def row_of(text):
    """A work and the variants to try in turn."""
    work, _, variants = text.partition(":")
    names = variants.split("/")
    if work not in WORKS or not all(name in VARIANTS for name in names):
        raise argparse.ArgumentTypeError(f"{text}: works are {', '.join(WORKS)}; variants {', '.join(VARIANTS)}")
    return work, names


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--work", choices=WORKS, action="append", help="one or more; default all")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="one or more, run in this order; default all")
    parser.add_argument("--row", type=row_of, action="append", metavar="WORK:VARIANT[/VARIANT...]", help="one or more, run in this order: the first variant that works; instead of --work and --variant")
    parser.add_argument("--clips", type=int, help="clips of a step: the work's own number, on a processor 4")
    parser.add_argument("--layers", type=int, help="cut the decoder to so many layers")
    parser.add_argument("--steps", type=int, help="steps that count: 20, on a processor 2")
    parser.add_argument("--warmup", type=int, help="steps before them: 5, on a processor 1")
    parser.add_argument("--budget-s", type=float, help="start no further row after so many seconds")
    parser.add_argument("--no-ceiling", action="store_true", help="leave the matrix products alone out")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there, one JSON object a line; - for stdout instead of the table")
    found = parser.parse_args()
    on_gpu = found.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --shape tiny runs without one")
    found.steps = found.steps or (20 if on_gpu else 2)
    found.warmup = found.warmup or (5 if on_gpu else 1)
    found.clips = found.clips or (None if on_gpu else 4)
    found.shorter = 1 if on_gpu else 4
    return found


class Clock:
    """Seconds between two points, by events on a GPU."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        self.marks = []

    def mark(self):
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if not self.on_gpu:
            return [after - before for before, after in pairs]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]


def run(variant, model, thinker, trained, data, settings):
    """Losses and seconds of the counted steps, gradients of the first step of all, peak bytes."""
    on_gpu = settings.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=on_gpu)
    clock, gradients, losses = Clock(settings.device), None, []
    with prepared(variant, model, thinker) as loss_of:
        for step in range(settings.warmup + settings.steps):
            if step == settings.warmup:
                clock.mark()
            optimiser.zero_grad(set_to_none=True)
            loss = loss_of(data)
            loss.backward()
            if gradients is None:
                gradients = [parameter.grad.detach().cpu().float() for parameter in trained]
            torch.nn.utils.clip_grad_norm_(trained, LARGEST_NORM)
            optimiser.step()
            losses.append(loss.detach())
            if step >= settings.warmup:
                clock.mark()
        seconds = clock.seconds()
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if on_gpu else (None, None)
    return [loss.item() for loss in losses], seconds, gradients, peak


def agreement(found, wanted):
    """The worst tensor's cosine and the relative norm of the difference."""
    cosines = [torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0).item() for a, b in zip(found, wanted)]
    difference = sum((a - b).square().sum() for a, b in zip(found, wanted)).sqrt()
    return min(cosines), (difference / sum(b.square().sum() for b in wanted).sqrt()).item()


def row(variant, work, model, thinker, trained, start, reference, settings):
    """One measured row, and the gradients to compare the next ones with."""
    examples = loads(work, settings.clips, settings.shorter)
    found = {"peer": variant.name, "work": work, "shape": settings.shape, "device": settings.device}
    with torch.no_grad():
        for parameter, value in zip(trained, start):
            parameter.copy_(value)
    try:
        data = batch(thinker, examples, settings.device, next(model.parameters()).dtype)
        losses, seconds, gradients, (allocated, reserved) = run(variant, model, thinker, trained, data, settings)
    except torch.OutOfMemoryError:
        return found | {"error": "out of memory"}, reference
    except Exception as fault:  # the next row may succeed
        return found | {"error": f"{type(fault).__name__}: {fault}".splitlines()[0][:300]}, reference
    step = statistics.median(seconds)
    cosine, error = agreement(gradients, reference or gradients)
    tokens = sum(load.tokens for load in examples)
    found |= {
        "step_ms": step * 1e3, "p90_ms": sorted(seconds)[len(seconds) * 9 // 10] * 1e3, "steps": len(seconds),
        "examples_per_s": len(examples) / step, "tokens_per_s": tokens / step, "useful_tflops": useful_flops(thinker, examples) / step / 1e12,
        "peak_gb": allocated and allocated / 1e9, "reserved_gb": reserved and reserved / 1e9,
        "loss": losses[0], "last_loss": losses[-1], "gradient_cosine": cosine, "gradient_error": error,
    }
    if variant.liger:
        found["liger_kernels"] = has_liger_kernels(thinker.device)
    if variant.compiled:
        # One for all layers, or one per layer. Fewer compiled layers would show only in the time.
        found["compiled_graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    if variant.packed:
        found["attention"] = kernel(settings.device)[0]
    return found, reference or gradients


def table(rows):
    print("| work | variant | step ms | examples/s | real tok/s | useful TFLOP/s | peak GB | loss | cosine | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        if "error" in r:
            print(f"| {r['work']} | {r['peer']} | {r['error']} | | | | | | | |")
            continue
        peak = f"{r['peak_gb']:.1f}" if r["peak_gb"] else ""
        rates = f"{r['examples_per_s']:.2f} | {r['tokens_per_s']:.0f} | {r['useful_tflops']:.3g}"
        print(f"| {r['work']} | {r['peer']} | {r['step_ms']:.1f} | {rates} | {peak} | {r['loss']:.5f} | {r['gradient_cosine']:.5f} | {r['gradient_error']:.1e} |")


def main():
    settings = arguments()
    begin = time.perf_counter()
    on_gpu = settings.device == "cuda"
    if not on_gpu:
        # Tiny operations on several threads wait for each other, and nothing is measured here.
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    to_stdout = settings.json == "-"
    sink = sys.stdout if to_stdout else open(settings.json, "w") if settings.json else None
    rows = []

    def say(line):
        if sink:
            print(json.dumps(line), file=sink, flush=True)

    say({
        "device": torch.cuda.get_device_name() if on_gpu else "cpu", "torch": torch.__version__, "transformers": transformers.__version__,
        "dtype": str(dtype), "attention": kernel(settings.device)[0],
    })
    if not settings.no_ceiling:
        found = ceiling.measure(settings.shape, 8192 if on_gpu else 64, settings.device, dtype)
        say({"ceiling": found})
        if not to_stdout:
            print(f"matrix products alone, {found['rows']} rows: {found['tflops']} TFLOP/s through the decoder; {found['products']}\n", flush=True)
    model, thinker, trained = build(settings.shape, settings.device, dtype, settings.layers)
    start = [parameter.detach().clone() for parameter in trained]
    wanted = settings.row or [(work, [name]) for work in settings.work or WORKS for name in settings.variant or VARIANTS]
    references = {}
    for work, names in wanted:
        for name in names:
            variant = VARIANTS[name]
            # A variant may have replaced another one before.
            earlier = [found for found in rows if (found["work"], found["peer"]) == (work, name)]
            if earlier and "error" in earlier[0]:
                continue
            if earlier:
                break
            if settings.budget_s and time.perf_counter() - begin > settings.budget_s:
                found = {"peer": name, "work": work, "error": "not run: out of time"}
            else:
                found, references[work] = row(variant, work, model, thinker, trained, start, references.get(work), settings)
            for parameter in trained:
                parameter.grad = None
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()
            rows.append(found)
            say(found)
            if not to_stdout:
                print(f"{work} {name}: {found.get('error') or format(found['step_ms'], '.1f') + ' ms'}", file=sys.stderr, flush=True)
            if "error" not in found:
                break
    if not to_stdout:
        table(rows)


if __name__ == "__main__":
    main()
