#!/usr/bin/env python3
"""Oracle for exports: loads a Qwen2.5-Omni tree with transformers, an adapter with PEFT, and prints the loss of each row.

    python peft_score.py MODEL_DIR ROWS.jsonl [--adapter PEFT_DIR]

Rows: ms-swift `messages` + `audios` (paths relative to the file of rows), any number of turns and clips; see chat.py. One JSON line per row:
id, loss (mean over target tokens), num_target_tokens, logprobs. Adapters in either key form; one that does not fit is an error.
"""
import argparse, json, os, torch
from chat import Chat, audio_tokens, batch, load, mel, read_audio
ap = argparse.ArgumentParser(); ap.add_argument("model"); ap.add_argument("rows"); ap.add_argument("--adapter"); a = ap.parse_args()
torch.set_num_threads(1); chat, model, here = Chat(a.model), load(a.model, a.adapter), os.path.dirname(os.path.abspath(a.rows))
for line in open(a.rows, encoding="utf-8"):
    r = json.loads(line); mels = [mel(read_audio(os.path.join(here, p))) for p in r.get("audios", [])]
    ids, mask = chat.render(r["messages"], [audio_tokens(m.shape[1]) for m in mels]); b = batch([(ids, mask, mels)], 0)
    with torch.no_grad(): o = model(**b)
    lp = o.logits[0].log_softmax(-1); logprobs = [float(lp[i - 1, ids[i]]) for i in range(1, len(ids)) if mask[i]]
    print(json.dumps({"id": r.get("id"), "loss": float(o.loss), "num_target_tokens": len(logprobs), "logprobs": logprobs}))
