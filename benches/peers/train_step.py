#!/usr/bin/env python3
"""The peer of maqam's training-step bench on a CPU: transformers' thinker of Qwen2.5-Omni with PEFT LoRA, as users run it.

    pip install torch==2.11.0 transformers==5.17.0 peft numpy
    python train_step.py --mode users                            the peer alone
    python train_step.py --mode users --ours 'maqam bench train --shape 0.5b --layers 4 --work asr --clips 4 --device cpu --json'

Shape 0.5b: Qwen2.5-0.5B's widths (hidden 896, 14 heads, 2 key/value heads, intermediate 4864, vocabulary 151936, tied embeddings) with
`--layers` layers, and an audio tower of the same construction as the real one (n_window 100, 128 mels), `--audio-*`. Random weights, float32.
Work asr: `--clips` clips of 10 s, each 40 prompt + 250 audio + 50 target tokens, all of one length, so the batch needs no padding. LoRA r=16
alpha=32 on q k v o gate up down of the decoder; tower frozen; gradient clipping at 1, AdamW.

Work short: clips of 3 s, as data/sample has: 60 prompt + 75 audio + 10 target tokens, `--clips` of them (maqam's bench has 16). `--model DIR` takes the shape from a
checkpoint's config.json instead, with random weights; `--full` trains every weight of all parts instead of adapters.

  --mode users            the whole step: tower, decoder, head over all positions and the loss as transformers computes it, backward, clip, AdamW
  --mode logits-to-keep   the same with the head over target rows only: faster than users' setups
  --mode layers           the decoder layers alone: hidden states in (they need no gradient), forward, backward from a given gradient; no optimiser

Prints one JSON object. others_busy: how many cores other programs kept busy during each repeat; above about 0.1 the seconds mean little, because
OpenMP's threads wait for each other at every small operation. Seconds are of whole steps after `--warmup` steps. --ours runs that command after each repeat (peer, maqam, peer, maqam).
It must print a line of JSON with "seconds_per_step". The ratio is maqam / peer, so below 1 maqam is faster.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time
ap = argparse.ArgumentParser()
ap.add_argument("--mode", choices=["users", "logits-to-keep", "layers"], default="users"); ap.add_argument("--shape", choices=["0.5b"], default="0.5b")
ap.add_argument("--layers", type=int, default=4); ap.add_argument("--clips", type=int, default=4); ap.add_argument("--work", choices=["asr", "short"], default="asr"); ap.add_argument("--model"); ap.add_argument("--full", action="store_true")
ap.add_argument("--audio-layers", type=int, default=4); ap.add_argument("--audio-dim", type=int, default=512); ap.add_argument("--audio-heads", type=int, default=8); ap.add_argument("--audio-ffn", type=int, default=2048)
ap.add_argument("--threads", type=int, default=2); ap.add_argument("--warmup", type=int, default=2); ap.add_argument("--repeats", type=int, default=5); ap.add_argument("--ours", metavar="CMD")
a = ap.parse_args()
for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"): os.environ[k] = str(a.threads)    # the two programs get the same number
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration
from peft import LoraConfig, get_peft_model
torch.set_num_threads(a.threads); torch.manual_seed(1)

PROMPT, TOKENS, TARGET, FRAMES = {"asr": (40, 250, 50, 1000), "short": (60, 75, 10, 300)}[a.work]
AUDIO, START, END = 151646, 151647, 151648
c = Qwen2_5OmniThinkerConfig(); t, au, v = c.text_config, c.audio_config, c.vision_config
if a.model:
    from transformers import Qwen2_5OmniConfig
    c = Qwen2_5OmniConfig.from_pretrained(a.model).thinker_config; t, au, v = c.text_config, c.audio_config, c.vision_config
    t.use_cache = False; AUDIO, START, END = c.audio_token_index, c.audio_start_token_id, c.audio_end_token_id
else:
    t.hidden_size, t.num_attention_heads, t.num_key_value_heads, t.intermediate_size, t.vocab_size = 896, 14, 2, 4864, 151936
    t.num_hidden_layers, t.layer_types, t.rope_parameters["mrope_section"] = a.layers, ["full_attention"] * a.layers, [8, 12, 12]
    t.tie_word_embeddings = c.tie_word_embeddings = True; t.use_cache = False
    au.encoder_layers, au.d_model, au.encoder_attention_heads, au.encoder_ffn_dim, au.output_dim = a.audio_layers, a.audio_dim, a.audio_heads, a.audio_ffn, t.hidden_size
    v.depth, v.hidden_size, v.num_heads, v.intermediate_size, v.out_hidden_size, v.fullatt_block_indexes = 1, 16, 2, 16, t.hidden_size, [0]   # unused here
    c.vision_start_token_id, c.vision_end_token_id = 151652, 151653
thinker = Qwen2_5OmniThinkerForConditionalGeneration._from_config(c, attn_implementation="sdpa", dtype=torch.float32)
assert thinker.lm_head.weight is thinker.model.embed_tokens.weight
model = thinker if a.full else get_peft_model(thinker, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"))
if a.full: thinker.visual.requires_grad_(False); thinker.audio_tower.audio_bos_eos_token.requires_grad_(False)   # neither is used here
model.train(); tuned = [p for p in model.parameters() if p.requires_grad]
assert a.full or len(tuned) == 14 * t.num_hidden_layers
for n, p in model.named_parameters():
    if "lora_B" in n: torch.nn.init.normal_(p, std=0.02)
optimiser = torch.optim.AdamW(tuned, lr=1e-4, weight_decay=0.01)

length = PROMPT + TOKENS + TARGET; ids = torch.randint(0, min(t.vocab_size, 151000, AUDIO, START, END), (a.clips, length)); at = 14          # the audio sits early in the prompt, as in the chat format
ids[:, at - 1], ids[:, at:at + TOKENS], ids[:, at + TOKENS] = START, AUDIO, END
labels = ids.clone(); labels[:, :PROMPT + TOKENS] = -100
batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=torch.randn(a.clips, 128, FRAMES) * 0.5, feature_attention_mask=torch.ones(a.clips, FRAMES, dtype=torch.long))

def finish(loss):
    optimiser.zero_grad(set_to_none=True); loss.backward(); torch.nn.utils.clip_grad_norm_(tuned, 1.0); optimiser.step(); return float(loss.detach())
def users(): return finish(model(**batch, labels=labels, use_cache=False).loss)

next_label = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100); wanted = next_label != -100
def logits_to_keep():
    hook = thinker.lm_head.register_forward_pre_hook(lambda _, args: (args[0][wanted],))
    try: return finish(cross_entropy(model(**batch, use_cache=False).logits, next_label[wanted]))
    finally: hook.remove()

if a.mode == "layers":
    hidden, upstream = torch.randn(a.clips, length, t.hidden_size), torch.randn(a.clips, length, t.hidden_size) / length
    rotary = thinker.model.rotary_emb(hidden, torch.arange(length).expand(3, a.clips, length))
def layers():
    x = hidden
    for layer in thinker.model.layers: x = layer(x, attention_mask=None, position_embeddings=rotary)    # no mask: sdpa's own causal path, as transformers chooses for a batch without padding
    for p in tuned: p.grad = None
    x.backward(upstream); return None

step = {"users": users, "logits-to-keep": logits_to_keep, "layers": layers}[a.mode]
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
result = {"mode": a.mode, "shape": a.model or a.shape, "full": a.full, "layers": t.num_hidden_layers, "clips": a.clips, "tokens": a.clips * length, "seconds": [round(s, 4) for s in seconds], "others_busy": others, "min": round(min(seconds), 4), "median": round(median, 4),
          "examples_per_s": round(a.clips / median, 3), "tokens_per_s": round(a.clips * length / median, 1), "loss": loss, "threads": torch.get_num_threads(), "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
          "torch": torch.__version__, "attention": thinker.model.layers[0].self_attn.config._attn_implementation}
if a.ours: ratios = [o / s for o, s in zip(theirs, seconds)]; result |= {"ours_seconds": theirs, "ratios": [round(r, 4) for r in ratios], "ratio_median": round(statistics.median(ratios), 4)}
print(json.dumps(result))
