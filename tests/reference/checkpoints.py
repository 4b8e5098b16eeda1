#!/usr/bin/env python3
"""Losses of checkpoints whose files disagree, by transformers and PEFT, for tests/it/checkpoints.rs.

    pip install torch==2.11.0 transformers==5.17.0 peft==0.21.2 safetensors tokenizers soundfile
    python tests/reference/checkpoints.py > tests/fixtures/checkpoints.json

Base: tests/fixtures/qwen_omni; rows: tests/fixtures/adapters/rows.jsonl; f32 on the CPU, one thread, eager attention.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

torch.set_num_threads(1)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
BASE = FIXTURES / "qwen_omni"
ADAPTERS = FIXTURES / "adapters"
CHANGED = "thinker.model.layers.0.mlp.down_proj.weight"


def prepared():
    """The rows as tensors, in maqam's wording of the chat template."""
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    extract = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    for line in open(ADAPTERS / "rows.jsonl", encoding="utf-8"):
        row = json.loads(line)
        wave, rate = soundfile.read(ADAPTERS / row["audios"][0], dtype="float32")
        assert rate == 16000 and wave.ndim == 1
        found = extract(wave, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
        frames = int(found.attention_mask.sum())
        tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        question = row["messages"][-2]["content"].replace("<audio>", "")
        prompt = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|audio_bos|>"
            + "<|AUDIO|>" * tokens
            + f"<|audio_eos|>{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        asked = tokenizer.encode(prompt, add_special_tokens=False).ids
        answer = tokenizer.encode(row["messages"][-1]["content"] + "<|im_end|>", add_special_tokens=False).ids
        ids = torch.tensor([asked + answer])
        yield dict(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=found.input_features[:, :, :frames],
            feature_attention_mask=torch.ones(1, frames, dtype=torch.long),
            labels=torch.tensor([[-100] * len(asked) + answer]),
            use_cache=False,
        )


ROWS = list(prepared())


def losses(folder, adapter=None):
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return [float(model(**row).loss) for row in ROWS]


def copy(change_config=None):
    folder = Path(tempfile.mkdtemp())
    for path in BASE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    if change_config:
        config = json.load(open(folder / "config.json"))
        change_config(config)
        json.dump(config, open(folder / "config.json", "w"))
    return folder


def tie(root=None, thinker=None, text=None):
    def change(config):
        for value, section in ((root, config), (thinker, config["thinker_config"]), (text, config["thinker_config"]["text_config"])):
            if value is not None:
                section["tie_word_embeddings"] = value

    return change


found = {"base": losses(copy())}
found["untied_head"] = {
    name: losses(copy(tie(**flags)))
    for name, flags in {
        "text": dict(text=True),
        "thinker": dict(thinker=True),
        "text and thinker": dict(text=True, thinker=True),
        "root": dict(root=True),
        "all": dict(root=True, thinker=True, text=True),
    }.items()
}

# A head that equals the embeddings is tied; without one the flag of the thinker ties.
folder = copy(tie(thinker=True, text=True))
shards = {path: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
table = next(t["thinker.model.embed_tokens.weight"] for t in shards.values() if "thinker.model.embed_tokens.weight" in t)
for path, tensors in shards.items():
    if "thinker.lm_head.weight" in tensors:
        tensors["thinker.lm_head.weight"] = table.clone()
        save_file(tensors, path, metadata={"format": "pt"})
found["equal_head"] = losses(folder)
for path, tensors in shards.items():
    if tensors.pop("thinker.lm_head.weight", None) is not None:
        save_file(tensors, path, metadata={"format": "pt"})
found["missing_head"] = losses(folder)

# A single file next to the shards that it was made from.
folder = copy()
tensors = {}
for path in sorted(folder.glob("*.safetensors")):
    tensors.update(load_file(path))
tensors[CHANGED] = tensors[CHANGED] * 3
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
found["single_beside_index"] = losses(folder)

# A tensor in two shards: the copy in the first shard, the original in the second, and the other way round.
found["tensor_in_two_shards"] = {}
for first in (True, False):
    folder = copy()
    shards = {path: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    original = next(t[CHANGED] for t in shards.values() if CHANGED in t)
    for number, (path, tensors) in enumerate(shards.items()):
        tensors[CHANGED] = original * (3 if (number == 0) == first else 1)
        save_file(tensors, path, metadata={"format": "pt"})
    found["tensor_in_two_shards"]["changed in the first" if first else "changed in the last"] = losses(folder)

found["adapters"] = {
    name: losses(BASE, ADAPTERS / name) for name in ("thinker_pattern_caret_alpha", "thinker_pattern_caret_rank")
}
json.dump(found, sys.stdout, indent=1)
print()
