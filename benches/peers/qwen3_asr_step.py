#!/usr/bin/env python3
"""The peer of our training-step bench on a CPU for Qwen3-ASR: transformers' model with PEFT LoRA, as users run it.

    pip install torch==2.11.0 transformers==5.17.0 peft numpy
    python qwen3_asr_step.py                                     the peer alone
    python qwen3_asr_step.py --ours 'maqam bench train --shape qwen3-asr-0.6b --layers 4 --work asr --clips 4 --device cpu --json'

Shapes are those of `maqam bench train --shape` (crates/engine/src/models/qwen3_asr/shapes.rs), the decoder cut to `--layers` layers; random weights, float32.
Work asr: `--clips` clips of 10 s, each 40 prompt + 130 audio + 50 target tokens, all of one length, so the batch needs no padding. LoRA r=16
alpha=32 on q k v o gate up down of the decoder; encoder and projector frozen; gradient clipping at 1, AdamW. A step is encoder, projector, decoder, head
over all positions and the loss as transformers computes it, backward, clip, AdamW. `--full` trains every weight instead.

Prints one JSON object. Seconds are of whole steps after `--warmup` steps. others_busy: how many cores other programs kept busy during each repeat; over about
0.1 the seconds mean little. --ours runs that command after each repeat (peer, ours, peer, ours); it must print a line of JSON with
"seconds_per_step"; the ratio is ours / peer, so below 1 is faster than the peer.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time
ap = argparse.ArgumentParser()
ap.add_argument("--shape", choices=["qwen3-asr-0.6b", "qwen3-asr-1.7b"], default="qwen3-asr-0.6b"); ap.add_argument("--layers", type=int, default=4)
ap.add_argument("--clips", type=int, default=4); ap.add_argument("--full", action="store_true")
ap.add_argument("--threads", type=int, default=2); ap.add_argument("--warmup", type=int, default=2); ap.add_argument("--repeats", type=int, default=5); ap.add_argument("--ours", metavar="CMD")
a = ap.parse_args()
for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"): os.environ[k] = str(a.threads)    # the two programs get the same number
import torch
from transformers import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration
from peft import LoraConfig, get_peft_model
torch.set_num_threads(a.threads); torch.manual_seed(1)

PROMPT, TOKENS, TARGET, FRAMES = 40, 130, 50, 1000
AUDIO = 151676
width, encoder_layers, hidden, ffn = {"qwen3-asr-0.6b": (896, 18, 1024, 3072), "qwen3-asr-1.7b": (1024, 24, 2048, 6144)}[a.shape]
c = Qwen3ASRConfig(
    audio_config={"d_model": width, "encoder_layers": encoder_layers, "encoder_attention_heads": width // 64, "encoder_ffn_dim": 4 * width, "output_dim": hidden},
    text_config={"model_type": "qwen3", "vocab_size": 151936, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": a.layers, "num_attention_heads": 16,
                 "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 65536, "tie_word_embeddings": True, "use_cache": False,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, audio_token_id=AUDIO)
model = Qwen3ASRForConditionalGeneration._from_config(c, attn_implementation="sdpa", dtype=torch.float32)
assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
if not a.full: model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"))
model.train(); tuned = [p for p in model.parameters() if p.requires_grad]
assert a.full or len(tuned) == 14 * a.layers
for n, p in model.named_parameters():
    if "lora_B" in n: torch.nn.init.normal_(p, std=0.02)
optimiser = torch.optim.AdamW(tuned, lr=1e-4, weight_decay=0.01)

length = PROMPT + TOKENS + TARGET; ids = torch.randint(0, 151000, (a.clips, length)); at = 9          # the audio sits early in the prompt, as in the chat format
ids[:, at:at + TOKENS] = AUDIO
labels = ids.clone(); labels[:, :PROMPT + TOKENS] = -100
batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=torch.randn(a.clips, 128, FRAMES) * 0.5, input_features_mask=torch.ones(a.clips, FRAMES, dtype=torch.long))

def step():
    loss = model(**batch, labels=labels, use_cache=False).loss
    optimiser.zero_grad(set_to_none=True); loss.backward(); torch.nn.utils.clip_grad_norm_(tuned, 1.0); optimiser.step(); return float(loss.detach())
def machine():
    """Seconds of CPU used since boot by everything on the machine (Linux; else None), and by this process."""
    try: user, nice, system, idle, wait, *more = map(int, open("/proc/stat").readline().split()[1:9])
    except OSError: return None
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK") - time.process_time()
def timed():
    before, begin = machine(), time.perf_counter(); loss = step(); took = time.perf_counter() - begin
    return took, loss, None if before is None else round(max(0.0, machine() - before) / took, 2)
def ours():
    run = subprocess.run(a.ours, shell=True, stdout=subprocess.PIPE, text=True)
    if run.returncode: sys.exit(f"ours ended with {run.returncode}: {a.ours}")
    for line in reversed(run.stdout.splitlines()):
        try: return float(json.loads(line)["seconds_per_step"])
        except (ValueError, KeyError, TypeError): continue
    sys.exit(f'no line of JSON with "seconds_per_step" from: {a.ours}\n{run.stdout[-500:]}')

for _ in range(a.warmup): step()
assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuned)
seconds, theirs, others, loss = [], [], [], None
for _ in range(a.repeats):
    s, loss, busy = timed(); seconds.append(s); others.append(busy)
    if a.ours: theirs.append(ours()); print(f"peer {s:.3f} s, ours {theirs[-1]:.3f} s, ratio {theirs[-1] / s:.3f}", file=sys.stderr)
median = statistics.median(seconds)
result = {"shape": a.shape, "full": a.full, "layers": a.layers, "clips": a.clips, "tokens": a.clips * length, "seconds": [round(s, 4) for s in seconds], "others_busy": others, "min": round(min(seconds), 4), "median": round(median, 4),
          "loss": loss, "threads": torch.get_num_threads(), "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "torch": torch.__version__}
if a.ours: ratios = [o / s for o, s in zip(theirs, seconds)]; result |= {"ours_seconds": theirs, "ratios": [round(r, 4) for r in ratios], "ratio_median": round(statistics.median(ratios), 4)}
print(json.dumps(result))
