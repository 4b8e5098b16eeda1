"""How fast the matrix products of a step run alone on this device: the ceiling for everything that contains them.

For each weight [out, in] of the decoder and for the head, the product of the forward pass and the one for the gradient of its input.
"""

import statistics
import time

import torch

from thinker import SHAPES

REPEATS = {"cuda": 20, "cpu": 1}


def weights(shape):
    """Name, out and in of each product, fused as an engine would run them, and how often each token passes it."""
    text, _ = SHAPES[shape]
    dim, ffn, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    keys = dim // text["num_attention_heads"] * text["num_key_value_heads"]
    return [
        ("qkv", dim + 2 * keys, dim, layers),
        ("o", dim, dim, layers),
        ("gate_up", 2 * ffn, dim, layers),
        ("down", dim, ffn, layers),
        ("head", text["vocab_size"], dim, 0),  # target rows alone do
    ]


def measure(shape, rows, device, dtype):
    """TFLOP/s of each product over `rows` random rows, and of a pass through the decoder, forward and back."""
    found, seconds, flops = {}, 0.0, 0.0
    for name, out, inside, times in weights(shape):
        weight = torch.randn(out, inside, device=device, dtype=dtype)
        x, dy = (torch.randn(rows, width, device=device, dtype=dtype) for width in (inside, out))
        for way, product in ((name, lambda: x @ weight.T), (f"{name} backward", lambda: dy @ weight)):
            took = median_seconds(product, device)
            found[way] = significant(2 * rows * out * inside / took)
            seconds, flops = seconds + times * took, flops + times * 2 * rows * out * inside
        del weight, x, dy
    return {"rows": rows, "tflops": significant(flops / seconds), "products": found}


def significant(flops_per_s):
    return float(f"{flops_per_s / 1e12:.4g}")


def median_seconds(run, device):
    run()
    if device == "cuda":
        # All are queued before the first is waited for: no launch shows in the times.
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(REPEATS[device])]
        for begin, end in pairs:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        took = [begin.elapsed_time(end) / 1e3 for begin, end in pairs]
    else:
        took = []
        for _ in range(REPEATS[device]):
            start = time.perf_counter()
            run()
            took.append(time.perf_counter() - start)
    return statistics.median(took)
