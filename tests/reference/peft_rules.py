#!/usr/bin/env python3
"""Rank and scale that PEFT gives every linear layer of tests/fixtures/qwen_omni, by configuration, for crates/engine's peft_rules.

    pip install torch==2.11.0 transformers==5.17.0 peft==0.21.2
    python tests/reference/peft_rules.py > tests/fixtures/peft_rules.json

Each case has the fields of adapter_config.json except `peft_type`. `form` is the model for PEFT: the full model (which has only the thinker
here) or the thinker. `modules` are the layers that get an adapter, by their path in that model: [rank, scale]. If PEFT refuses the case,
`error` replaces `modules`. `fields` lists every field of LoraConfig, so that tests notice a new one.
"""
import dataclasses
import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.config import PeftConfig
from peft.tuners.lora import LoraLayer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

warnings.simplefilter("ignore")
torch.set_num_threads(1)
BASE = Path(__file__).resolve().parent.parent / "fixtures" / "qwen_omni"


class Full(torch.nn.Module):
    """Stands for the full model: the thinker under its name there."""

    def __init__(self, thinker):
        super().__init__()
        self.thinker = thinker
        self.config = thinker.config

    def prepare_inputs_for_generation(self, *_, **__):
        pass


Q0 = r"model\.layers\.0\.self_attn\.q_proj"
QV = ["q_proj", "v_proj"]
CASES = [
    {},
    dict(r=4, lora_alpha=8, target_modules=QV),
    dict(r=4, lora_alpha=8, target_modules=QV, use_rslora=True),
    dict(lora_alpha=16, target_modules=QV),
    dict(r=4, target_modules="all-linear"),
    dict(r=4, target_modules="ALL-LINEAR"),
    dict(r=4, target_modules="q_proj"),
    dict(r=4, target_modules=r".*q_proj"),
    dict(r=4, target_modules=r"model\.layers\.\d+\.self_attn\.(q|v)_proj"),
    dict(r=4, target_modules=r"thinker\.model\.layers\.\d+\.self_attn\.(q|v)_proj"),
    dict(r=4, target_modules=r"(?!.*audio_tower).*\.(q|v)_proj"),
    dict(r=4, target_modules=r".*layers\.(?!0\.)\d+\.mlp\.(gate|up)_proj"),
    dict(r=4, target_modules=r".*(?<=self_attn\.)q_proj"),
    dict(r=4, target_modules=["self_attn.q_proj", "fc1"]),
    dict(r=4, target_modules=["proj"]),
    dict(r=4, target_modules=["model.layers.0.self_attn.q_proj"]),
    dict(r=4, target_modules=["thinker.model.layers.0.self_attn.q_proj"]),
    dict(r=4, target_modules=QV, exclude_modules=["v_proj"]),
    dict(r=4, target_modules=QV, exclude_modules=r".*audio_tower.*"),
    dict(r=4, target_modules=QV, exclude_modules="q_proj"),
    dict(r=4, target_modules=QV, exclude_modules=[]),
    dict(r=4, target_modules="all-linear", exclude_modules=["fc1", "down_proj"]),
    dict(r=4, target_modules=QV, layers_to_transform=1),
    dict(r=4, target_modules=QV, layers_to_transform=[0, 2]),
    dict(r=4, target_modules=QV, layers_to_transform=[]),
    dict(r=4, target_modules=QV, layers_to_transform=[0], layers_pattern="layers"),
    dict(r=4, target_modules=QV, layers_to_transform=[0], layers_pattern=["blocks", "layers"]),
    dict(r=4, target_modules=QV, layers_to_transform=[0], layers_pattern="model.layers"),
    dict(r=4, target_modules=QV + ["proj"], layers_to_transform=[0]),
    dict(r=4, target_modules=["model.layers.2.self_attn.q_proj", "v_proj"], layers_to_transform=[0]),
    dict(r=4, target_modules=r".*q_proj", layers_to_transform=[0]),
    dict(r=4, target_modules=r".*q_proj", layers_pattern="layers"),
    dict(r=4, target_modules=QV, layers_pattern="layers"),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={"^" + Q0: 64}),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={r"^thinker\." + Q0: 64}),
    dict(r=4, lora_alpha=8, target_modules=QV, rank_pattern={"^model.layers.0.self_attn.q_proj": 8}, alpha_pattern={"^model.layers.0.self_attn.q_proj": 64}),
    dict(r=4, lora_alpha=8, target_modules=QV, rank_pattern={Q0: 8}),
    dict(r=4, lora_alpha=8, target_modules=QV, rank_pattern={"q_proj": 8, r"layers\.1\..*": 2}),
    dict(r=4, lora_alpha=8, target_modules=QV, rank_pattern={r"layers\.1\..*": 2, "q_proj": 8}),
    dict(r=4, lora_alpha=8, target_modules=QV, rank_pattern={r"layers\.(?!0\.)\d+\.self_attn\.q_proj": 8}),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={r"(?!.*audio_tower).*q_proj": 3.5}),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={"q_proj|v_proj": 2}),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={"proj": 2}),
    dict(r=4, lora_alpha=8, target_modules=QV, alpha_pattern={r"(q|v)_proj": 2}, use_rslora=True),
    dict(r=4, lora_alpha=8, target_modules=QV, fan_in_fan_out=True),
    dict(r=4, lora_alpha=8, target_modules=QV, init_lora_weights="gaussian"),
    dict(r=4, lora_alpha=8, target_modules=QV, init_lora_weights="orthogonal"),
    dict(r=4, lora_alpha=8, target_modules=QV, init_lora_weights="no such start"),
    dict(r=0, target_modules=QV),
    dict(r=4, target_modules=QV, rank_pattern={"q_proj": 0}),
    dict(r=4, target_modules=QV, lora_dropout=0.1, task_type="CAUSAL_LM", inference_mode=True, revision="main", auto_mapping=None, peft_version="0.21.2", megatron_core="megatron.core", qalora_group_size=32, ensure_weight_tying=False),
    dict(r=4, target_modules=QV, use_dora=False, use_qalora=False, use_bdlora=None, lora_bias=False, bias="none", modules_to_save=None, trainable_token_indices=None, target_parameters=None, layer_replication=None, alora_invocation_tokens=None, arrow_config=None, kasa_config=None, velora_config=None, monteclora_config=None, megatron_config=None, eva_config=None, corda_config=None, lora_ga_config=None, loftq_config={}),
    dict(r=4, target_modules=QV, novel_field=True),
]


def found(case, form):
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    model = Full(thinker) if form == "full" else thinker
    try:
        config = PeftConfig.from_peft_type(peft_type="LORA", base_model_name_or_path=".", **case)
        model = get_peft_model(model, config)
    except Exception as error:  # whatever PEFT refuses
        return {"error": f"{type(error).__name__}: {str(error)[:160]}"}
    layers = {}
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer) and "visual" not in name:
            layers[name] = [module.r["default"], module.scaling["default"]]
    return {"modules": layers}


rows = [{"form": form, "config": case, **found(case, form)} for form in ("full", "thinker") for case in CASES]
fields = sorted(field.name for field in dataclasses.fields(LoraConfig))
print('{"peft": "0.21.2",\n "fields": ' + json.dumps(fields) + ',\n "cases": [')
print(",\n".join("  " + json.dumps(row) for row in rows))
print(" ]}")
