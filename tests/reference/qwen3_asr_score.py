#!/usr/bin/env python3
"""Oracle for exports: loads a Qwen3-ASR tree with transformers, an adapter with PEFT, and prints the loss of each row.

    python qwen3_asr_score.py MODEL_DIR ROWS.jsonl [--adapter PEFT_DIR]

Rows are the official ones: `audio` (a path relative to the file of rows, 16 kHz, one channel), `text` with its language, and `prompt`. One JSON
line per row: id, loss (mean over target tokens), num_target_tokens. An adapter with a key that does not fit is an error.
"""

import argparse
import json
import os
import warnings

import soundfile
import torch
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--adapter")
arguments = parser.parse_args()

torch.set_num_threads(1)
model, report = Qwen3ASRForConditionalGeneration.from_pretrained(arguments.model, dtype=torch.float32, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
if arguments.adapter:
    from peft import PeftModel

    # PEFT warns of keys that it does not find.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(model, arguments.adapter)
model.eval()
processor = AutoProcessor.from_pretrained(arguments.model)
here = os.path.dirname(os.path.abspath(arguments.rows))

for line in open(arguments.rows, encoding="utf-8"):
    row = json.loads(line)
    wave, rate = soundfile.read(os.path.join(here, row["audio"]), dtype="float32")
    assert rate == 16000, rate
    context = [{"role": "system", "content": [{"type": "text", "text": row["prompt"]}]}] if row.get("prompt") else []
    messages = context + [{"role": "user", "content": [{"type": "audio", "audio": wave}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=prompt, audio=wave, return_tensors="pt")
    target = processor.tokenizer(row["text"] + "<|im_end|>", add_special_tokens=False, return_tensors="pt").input_ids
    ids = torch.cat([inputs.input_ids, target], 1)
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=inputs.input_features,
            input_features_mask=inputs.input_features_mask,
            use_cache=False,
        ).logits[0]
    length = target.shape[1]
    loss = torch.nn.functional.cross_entropy(logits[-length - 1 : -1], target[0])
    print(json.dumps({"id": row.get("id"), "loss": float(loss), "num_target_tokens": length}))
