#!/usr/bin/env python3
"""Oracle for training: PyTorch and PEFT over exactly the examples that `maqam train` draws, by `maqam plan RECIPE --picks F.jsonl`.

    maqam plan recipe.yaml --picks picks.jsonl
    python train_curve.py --model DIR --adapter PEFT_DIR --manifest rows.jsonl --picks picks.jsonl --instruction "Transcribe the speech." --lr 1e-4 --steps 20

Each line of the picks is {"step", "stage", "ids": [...]}; each manifest row has id, audio (relative to the manifest), text, optionally start_s and end_s.
A row becomes: the default system message, the clip and the instruction, and the row's `--target` field (text) as the answer.
--instruction is the same for every row; --instructions F.json maps ids to instructions. A row's `instruction` / `target` or `messages` win.
--features F.safetensors: log-mel per id, [128, frames] (`maqam features`), so that two MP3 decoders need not agree.
AdamW (betas 0.9 0.999, eps 1e-8), constant learning rate, clipping at norm 1, loss = sum over all target tokens of the step / their number.
Prints one line per step: {"step", "loss" (before the update), "grad_norm" (before clipping), "target_tokens"}. --out DIR saves the adapter at the end.
"""
import argparse, json, os, torch
from chat import Chat, audio_tokens, batch, load, mel, read_audio
ap = argparse.ArgumentParser()
ap.add_argument("--model", required=True); ap.add_argument("--adapter", required=True); ap.add_argument("--manifest", nargs="+", required=True); ap.add_argument("--picks", required=True)
ap.add_argument("--instruction"); ap.add_argument("--instructions"); ap.add_argument("--target", default="text"); ap.add_argument("--features"); ap.add_argument("--out")
ap.add_argument("--steps", type=int, help="default: all picks"); ap.add_argument("--lr", type=float, default=1e-4); ap.add_argument("--weight-decay", type=float, default=0.01); ap.add_argument("--threads", type=int, default=1)
a = ap.parse_args(); torch.set_num_threads(a.threads)
rows = {}
for path in a.manifest:
    for line in open(path, encoding="utf-8"):
        r = json.loads(line); assert r["id"] not in rows, f"{path}: {r['id']} twice"; rows[r["id"]] = r | {"folder": os.path.dirname(os.path.abspath(path))}
instructions = json.load(open(a.instructions, encoding="utf-8")) if a.instructions else {}
if a.features: from safetensors import safe_open; features = safe_open(a.features, "pt"); stored = set(features.keys())
chat, model = Chat(a.model), load(a.model, a.adapter, trainable=True); tuned = [p for p in model.parameters() if p.requires_grad]
assert tuned and all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)
optimiser = torch.optim.AdamW(tuned, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=a.weight_decay)

def example(key):
    r = rows[key]; clips = r.get("audios") or ([r["audio"]] if r.get("audio") else [])
    if a.features and clips: mels = [features.get_tensor(key)] if key in stored else [features.get_tensor(f"{key}.{i}") for i in range(len(clips))]
    else: mels = [mel(read_audio(os.path.join(r["folder"], p), r.get("start_s"), r.get("end_s"))) for p in clips]
    if not (messages := r.get("messages")):
        wording = r.get("instruction") or instructions.get(key) or a.instruction; assert wording, f"{key}: no instruction"
        messages = [{"role": "user", "content": "<audio>" * len(mels) + wording}, {"role": "assistant", "content": r.get("target") or r[a.target]}]
    return (*chat.render(messages, [audio_tokens(m.shape[1]) for m in mels]), mels)

for line in list(open(a.picks, encoding="utf-8"))[:a.steps]:
    pick = json.loads(line); b = batch([example(k) for k in pick["ids"]], 0)
    loss = model(**b).loss; optimiser.zero_grad(); loss.backward(); norm = torch.nn.utils.clip_grad_norm_(tuned, 1.0); optimiser.step()
    print(json.dumps({"step": pick["step"], "loss": float(loss.detach()), "grad_norm": float(norm), "target_tokens": int((b["labels"] != -100).sum())}), flush=True)
if a.out: model.save_pretrained(a.out)
