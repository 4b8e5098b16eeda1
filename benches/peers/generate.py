#!/usr/bin/env python3
"""Generation of maqam against transformers' `generate`, both on this machine's CPU, one after the other in one run.

    pip install torch transformers
    python benches/peers/generate.py --maqam target/release/maqam --model DIR [--batch 1 16] [--seconds 5] [--new-tokens 48] [--threads 2]

DIR is a checkpoint of Qwen2-Audio's layout (`maqam compose` makes one). Both read the same number of tokens: a clip of --seconds and 32 others
for each prompt, of random numbers; both write --new-tokens greedily in f32, ends of turn ignored. Prints a JSON line for each batch: seconds
of both for the prompts with one token and for all tokens (the fastest of three runs, after one that does not count), and their ratio.
"""
import argparse, json, os, subprocess, time

ap = argparse.ArgumentParser()
ap.add_argument("--maqam", default="target/release/maqam"); ap.add_argument("--model", required=True)
ap.add_argument("--batch", nargs="+", type=int, default=[1, 16]); ap.add_argument("--seconds", type=int, default=5); ap.add_argument("--new-tokens", type=int, default=48)
ap.add_argument("--threads", type=int, default=os.cpu_count()); ap.add_argument("--runs", type=int, default=3)
a = ap.parse_args()
os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(a.threads)

import torch
from transformers import Qwen2AudioForConditionalGeneration

torch.set_num_threads(a.threads)
model = Qwen2AudioForConditionalGeneration.from_pretrained(a.model, dtype=torch.float32).eval()
model.generation_config.eos_token_id = None
frames = 100 * a.seconds; tokens = ((frames - 1) // 2 + 1) // 2
audio = model.config.audio_token_id; bands = model.config.audio_config.num_mel_bins
for batch in a.batch:
    x = torch.randint(0, min(audio, 1000), (batch, 32 + tokens)); x[:, 16 : 16 + tokens] = audio
    mask = torch.zeros(batch, 3000, dtype=torch.long); mask[:, :frames] = 1
    inputs = dict(input_ids=x, attention_mask=torch.ones_like(x), input_features=torch.rand(batch, bands, 3000), feature_attention_mask=mask)

    def fastest(new):
        best = float("inf")
        for run in range(a.runs + 1):
            start = time.perf_counter()
            with torch.inference_mode(): model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
            if run: best = min(best, time.perf_counter() - start)
        return best

    theirs = {"prefill_s": fastest(1), "generate_s": fastest(a.new_tokens)}
    command = [a.maqam, "bench", "generate", "--model", a.model, "--batch", str(batch), "--seconds", str(a.seconds), "--new-tokens", str(a.new_tokens), "--runs", str(a.runs), "--json", "--device", "cpu"]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = {key: ours[key] / theirs[key] for key in theirs}
    print(json.dumps({"batch": batch, "threads": a.threads, "maqam": ours, "transformers": theirs, "ratio": ratio}), flush=True)
