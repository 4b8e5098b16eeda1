#!/usr/bin/env python3
"""Adapters merged by PEFT, for tests/it/merge.rs: matrices of some modules, and the losses of rows.

    pip install torch peft transformers safetensors tokenizers soundfile
    python tests/reference/merge.py [FOLDER...]

Writes tests/fixtures/merge: the adapter `other`, `expected.safetensors` and `expected.json`, which names the versions. Each FOLDER is an adapter whose losses are printed instead: whether PEFT reads it.
Base: tests/fixtures/qwen_omni; rows: tests/fixtures/adapters/rows.jsonl; f32 on the CPU, one thread, eager attention.
"""
import json
import sys
from pathlib import Path

import peft
import soundfile
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.merge_utils import ties
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

torch.set_num_threads(1)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
BASE = FIXTURES / "qwen_omni"
ADAPTERS = FIXTURES / "adapters"
OUT = FIXTURES / "merge"
# q_proj and down_proj are in both adapters, k_proj in the first alone.
MODULES = ["thinker.model.layers.0.self_attn.q_proj", "thinker.model.layers.1.mlp.down_proj", "thinker.model.layers.0.self_attn.k_proj"]


class Omni(torch.nn.Module):
    """The thinker below the name that it has in the full model."""

    def __init__(self, thinker):
        super().__init__()
        self.thinker = thinker

    def forward(self, **inputs):
        return self.thinker(**inputs)

    def prepare_inputs_for_generation(self, *_, **inputs):
        return inputs


def base():
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    return Omni(thinker).eval()


def rows():
    """The rows as tensors, in maqam's wording of the chat template."""
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    extract = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    for line in open(ADAPTERS / "rows.jsonl", encoding="utf-8"):
        row = json.loads(line)
        wave, _ = soundfile.read(ADAPTERS / row["audios"][0], dtype="float32")
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


ROWS = list(rows())


def losses(model):
    model.eval()
    with torch.no_grad():
        # PEFT's own forward needs the configuration of the whole model.
        return [float(model.base_model(**row).loss) for row in ROWS]


def write_other():
    """A second adapter: another rank, the scale of rsLoRA, other modules."""
    torch.manual_seed(5)
    config = LoraConfig(
        r=3, lora_alpha=2, use_rslora=True, target_modules=r"thinker\.model\.layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"
    )
    model = get_peft_model(base(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(OUT / "other")
    (OUT / "other" / "README.md").unlink(missing_ok=True)


def merged(kind, weights, density=None, rank=None):
    model = PeftModel.from_pretrained(base(), BASE / "adapter_final", adapter_name="first")
    model.load_adapter(OUT / "other", adapter_name="other")
    model.add_weighted_adapter(["first", "other"], weights, "merged", combination_type=kind, density=density, svd_rank=rank)
    model.set_adapter("merged")
    deltas = {}
    for path in MODULES:
        deltas[path] = model.base_model.model.get_submodule(path).get_delta_weight("merged").detach().contiguous()
    return deltas, losses(model)


if sys.argv[1:]:
    for folder in sys.argv[1:]:
        print(folder, losses(PeftModel.from_pretrained(base(), folder)))
    sys.exit()

def ties_whole(weights, density):
    """PEFT's `ties` on whole matrices, added to the weights of the base: no rank cuts them off."""
    model = PeftModel.from_pretrained(base(), BASE / "adapter_final", adapter_name="first")
    model.load_adapter(OUT / "other", adapter_name="other")
    whole, deltas = base(), {}
    for path, layer in model.base_model.model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        pairs = [(layer.get_delta_weight(name), weight) for name, weight in zip(("first", "other"), weights) if name in layer.lora_A]
        delta = ties([one for one, _ in pairs], torch.tensor([weight for _, weight in pairs]), density).detach()
        whole.get_submodule(path).weight.data += delta
        if path in MODULES:
            deltas[path] = delta.contiguous()
    with torch.no_grad():
        return deltas, [float(whole(**row).loss) for row in ROWS]


write_other()
tensors, found = {}, {}
CASES = {
    "linear": merged("cat", [0.5, 0.5]),
    "linear_weights": merged("cat", [1.5, -0.25]),
    "linear_rank_2": merged("svd", [0.5, 0.5], rank=2),
    "ties": ties_whole([1.0, 1.0], 0.2),
    "ties_weights": ties_whole([0.7, 1.3], 0.5),
    "ties_rank_3": merged("ties_svd", [1.0, 1.0], 0.2, 3),
}
for name, (deltas, of_rows) in CASES.items():
    tensors.update({f"{name}.{path}": delta for path, delta in deltas.items()})
    found[name] = of_rows
save_file(tensors, OUT / "expected.safetensors")
found["versions"] = {library.__name__: library.__version__ for library in (torch, transformers, peft)}
(OUT / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
