"""Speed of a step's matrix products and of copies alone on this device: upper bounds for everything that contains them.

    python benches/peers/ceiling.py                                       the 7B shape over 8,192 rows in bf16, one JSON object
    python benches/peers/ceiling.py --device cpu --shape tiny --rows 64   on a CPU, in f32

For each weight [out, in] of the decoder and for the head, the product of the forward pass and the one for the gradient of its input. A copy
counts the bytes that it reads and those that it writes. Needs torch alone.
"""

import argparse
import json
import statistics
import time

import torch

from shapes import SHAPES

REPEATS = {"cuda": 20, "cpu": 1}
COPIED_BYTES = {"cuda": 4 << 30, "cpu": 1 << 24}


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
        ("head", text["vocab_size"], dim, 0),  # target rows only
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
        # All are queued before the first wait, so the times have no launches.
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


def copy_rate(device):
    """Bytes per second of a copy on the device, read and written ones together."""
    source = torch.randn(COPIED_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    took = median_seconds(lambda: target.copy_(source), device)
    return 2 * COPIED_BYTES[device] / took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    settings = parser.parse_args()
    on_gpu = settings.device == "cuda"
    found = measure(settings.shape, settings.rows, settings.device, torch.bfloat16 if on_gpu else torch.float32)
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    print(json.dumps({"device": device, "torch": torch.__version__, **found, "copy_gb_per_s": round(copy_rate(settings.device) / 1e9, 1)}))


if __name__ == "__main__":
    main()
