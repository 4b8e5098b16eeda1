"""A HuBERT encoder's forward and training step: transformers' HubertModel and maqam, alternating, on the CPU.

    cargo bench --bench encoder --no-run        # prints the program's path
    python benches/peers/hubert.py --ours PATH [--shape small|base] [--clips 4] [--seconds 4] [--pairs 3]

Both compute in f32 with all cores: forward of CLIPS random clips; then a step of masked prediction over all frames (cosine to 500
codes) with every second frame masked, AdamW over all weights. torch runs eager attention or what transformers chooses by default.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
from transformers import HubertConfig, HubertModel

parser = argparse.ArgumentParser()
parser.add_argument("--ours", required=True)
parser.add_argument("--shape", default="small")
parser.add_argument("--clips", type=int, default=4)
parser.add_argument("--seconds", type=float, default=4.0)
parser.add_argument("--pairs", type=int, default=3)
a = parser.parse_args()

off = dict(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, mask_time_prob=0.05)
small = dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024, conv_dim=[128] * 7)
model = HubertModel(HubertConfig(**off, **(small if a.shape == "small" else {})))
hidden = model.config.hidden_size
projection = torch.nn.Parameter(torch.randn(256, hidden) * 0.02)
codes = torch.nn.Parameter(torch.randn(500, 256))
optimiser = torch.optim.AdamW([*model.parameters(), projection, codes], lr=1e-4, weight_decay=0.01, fused=True)
x = torch.rand(a.clips, int(a.seconds * 16000)) - 0.5
with torch.no_grad():
    frames = model.eval()(x).last_hidden_state.shape[1]
mask = (torch.arange(frames) % 2 == 0)[None].expand(a.clips, -1)
targets = torch.arange(a.clips * frames) % 500


def forward():
    model.eval()
    with torch.no_grad():
        model(x, output_hidden_states=True)


def step():
    model.train()
    out = model(x, mask_time_indices=mask).last_hidden_state.reshape(-1, hidden) @ projection.T
    logits = torch.nn.functional.normalize(out, dim=-1) @ torch.nn.functional.normalize(codes, dim=-1).T / 0.1
    loss = torch.nn.functional.cross_entropy(logits, targets)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def timed(work):
    work()
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


pairs = []
for _ in range(a.pairs):
    theirs = timed(forward), timed(step)
    out = subprocess.run([a.ours, a.shape, str(a.clips), str(a.seconds)], capture_output=True, text=True, check=True).stdout
    ours = json.loads(out)
    pairs.append((ours["forward_s"] / theirs[0], ours["step_s"] / theirs[1]))
    print(json.dumps({"theirs_forward_s": round(theirs[0], 4), "theirs_step_s": round(theirs[1], 4), **ours}))
print("ratio of medians of pairs: forward %.2f, step %.2f" % tuple(statistics.median(r) for r in zip(*pairs)))
