#!/usr/bin/env python3
"""The peer of maqam's training-step bench on a CPU for Qwen2-Audio: transformers' model with PEFT LoRA.

    pip install torch==2.15.0 transformers==5.17.0 peft==0.21.2
    python qwen2_audio_step.py --model DIR                       the peer alone
    python qwen2_audio_step.py --model DIR --ours 'maqam bench train --model DIR --work asr --clips 4 --device cpu --json'

DIR gives the shape by its config.json, for instance a tree that `maqam compose` wrote. The weights are random, in float32. Each
of `--clips` clips has 10 s: 40 prompt, 250 audio and 50 target tokens, all of one length, so the batch needs no padding. The
adapters have rank 16 and alpha 32, on the seven linear layers of each decoder layer. Encoder and projector are frozen. A step is
encoder, projector, decoder, head and loss, backward, clipping at 1, AdamW.

  --mode users            log-mel padded to 30 s as Qwen2-Audio's processor does, head over all positions
  --mode logits-to-keep   the same with the head over target rows only

Prints one JSON object. `others_busy` is how many cores other programs kept busy during each repeat; above about 0.1 the seconds
mean little. `--ours` runs that command after each repeat (peer, maqam, peer, maqam). It must print a line of JSON with
"seconds_per_step". The ratio is maqam / peer, so below 1 maqam is faster.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--mode", choices=["users", "logits-to-keep"], default="users")
parser.add_argument("--layers", type=int, help="cut the decoder to so many layers")
parser.add_argument("--clips", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=1)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--ours", metavar="CMD")
args = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = str(args.threads)  # The two programs get the same number.

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, Qwen2AudioForConditionalGeneration

torch.set_num_threads(args.threads)
torch.manual_seed(1)
PROMPT, AUDIO_TOKENS, TARGET, FRAMES, PADDED = 40, 250, 50, 1000, 3000
AUDIO_STARTS = 14  # Early in the prompt, as in the chat format.

config = AutoConfig.from_pretrained(args.model)
if args.layers:
    config.text_config.num_hidden_layers = args.layers
    config.text_config.layer_types = ["full_attention"] * args.layers
base = Qwen2AudioForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
linear = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
model = get_peft_model(
    base, LoraConfig(r=16, lora_alpha=32, target_modules=rf".*language_model.*\.layers\.\d+\..*({linear})")
)
model.train()
tuned = [p for p in model.parameters() if p.requires_grad]
assert len(tuned) == 14 * config.text_config.num_hidden_layers, len(tuned)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.02)
optimiser = torch.optim.AdamW(tuned, lr=1e-4, weight_decay=0.01)

length = PROMPT + AUDIO_TOKENS + TARGET
audio = config.audio_token_id
ids = torch.randint(0, 151000, (args.clips, length))
ids[:, AUDIO_STARTS : AUDIO_STARTS + AUDIO_TOKENS] = audio
labels = ids.clone()
labels[:, : PROMPT + AUDIO_TOKENS] = -100
mask = torch.zeros(args.clips, PADDED, dtype=torch.long)
mask[:, :FRAMES] = 1
features = torch.randn(args.clips, config.audio_config.num_mel_bins, PADDED) * 0.5
batch = dict(
    input_ids=ids, attention_mask=torch.ones_like(ids), input_features=features, feature_attention_mask=mask
)
next_label = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
wanted = next_label != -100


def loss_of_batch() -> torch.Tensor:
    if args.mode == "users":
        return model(**batch, labels=labels, use_cache=False).loss
    head = model.get_base_model().get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][wanted],))
    try:
        return cross_entropy(model(**batch, use_cache=False).logits, next_label[wanted])
    finally:
        hook.remove()


def step() -> float:
    loss = loss_of_batch()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(tuned, 1.0)
    optimiser.step()
    return float(loss.detach())


def busy_elsewhere() -> float:
    """Processor seconds since boot of everything on the machine but this process (Linux)."""
    user, nice, system, _, _, *more = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def ours() -> float:
    run = subprocess.run(args.ours, shell=True, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"the command of --ours ended with {run.returncode}: {args.ours}")
    return float(json.loads(run.stdout.splitlines()[-1])["seconds_per_step"])


for _ in range(args.warmup):
    step()
seconds, others, theirs = [], [], []
for _ in range(args.repeats):
    before, start = busy_elsewhere(), time.perf_counter()
    loss = step()
    seconds.append(time.perf_counter() - start)
    others.append(round(max(0.0, busy_elsewhere() - before) / seconds[-1], 2))
    if args.ours:
        theirs.append(ours())
        print(f"peer {seconds[-1]:.3f} s, maqam {theirs[-1]:.3f} s", file=sys.stderr)
result = {
    "mode": args.mode,
    "layers": config.text_config.num_hidden_layers,
    "tokens": args.clips * length,
    "seconds": [round(s, 3) for s in seconds],
    "others_busy": others,
    "loss": loss,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "torch": torch.__version__,
}
if theirs:
    ratios = [o / s for o, s in zip(theirs, seconds)]
    result |= {"ours_seconds": theirs, "ratios": [round(r, 3) for r in ratios]}
    result |= {"ratio_median": round(statistics.median(ratios), 3)}
print(json.dumps(result))
