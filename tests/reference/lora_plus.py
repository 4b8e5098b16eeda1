#!/usr/bin/env python3
"""Twenty steps of LoRA+ by PEFT's `create_loraplus_optimizer`, for tests/it/parity.rs.

    pip install torch peft transformers safetensors
    python tests/reference/lora_plus.py > tests/fixtures/lora_plus.json

Base, first adapter and examples are those of tests/fixtures/qwen_omni; every step has all of them. The output names the versions.
"""
import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

LEARNING_RATE, RATIO, STEPS = 2e-3, 8.0, 20
torch.set_num_threads(1)
BASE = Path(__file__).resolve().parent.parent / "fixtures" / "qwen_omni"


class Omni(torch.nn.Module):
    """The thinker below the name that it has in the full model."""

    def __init__(self):
        super().__init__()
        self.thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")

    def prepare_inputs_for_generation(self, *_, **inputs):
        return inputs


mels = load_file(BASE / "expected.safetensors")
examples = json.loads((BASE / "expected.json").read_text())["examples"]
model = PeftModel.from_pretrained(Omni(), BASE / "adapter_init", is_trainable=True).train()
optimiser = create_loraplus_optimizer(
    model, torch.optim.AdamW, lr=LEARNING_RATE, loraplus_lr_ratio=RATIO, betas=(0.9, 0.999), eps=1e-8, loraplus_weight_decay=0.01
)
tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
num_targets = sum(example["target_len"] for example in examples)
losses, norms = [], []
for _ in range(STEPS):
    optimiser.zero_grad()
    total = 0.0
    for i, example in enumerate(examples):
        ids = torch.tensor([example["input_ids"]])
        features = mels[f"mel.{i}"][None]
        logits = model.base_model.model.thinker(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features,
            feature_attention_mask=torch.ones(1, features.shape[-1], dtype=torch.long),
            use_cache=False,
        ).logits[0]
        start = ids.shape[1] - example["target_len"]
        of_targets = torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum") / num_targets
        of_targets.backward()
        total += float(of_targets.detach())
    norms.append(float(torch.nn.utils.clip_grad_norm_(tuned, 1.0)))
    losses.append(total)
    optimiser.step()

versions = {library.__name__: library.__version__ for library in (torch, transformers, peft)}
found = dict(lr=LEARNING_RATE, ratio=RATIO, weight_decay=0.01, step_losses=losses, grad_norms=norms, versions=versions)
json.dump(found, sys.stdout, indent=1)
print()
