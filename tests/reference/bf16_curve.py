"""Two usual runs of PyTorch and PEFT in bf16. Their difference is the tolerance for maqam on a GPU (tests/cuda_train.rs).

    pip install torch==2.11.0 transformers==5.17.0 peft==0.21.2 safetensors
    python tests/reference/bf16_curve.py tests/fixtures tests/fixtures/bf16_curves.json

For each checkpoint, every clip of its fixture in one padded batch, mean loss over target tokens: 50 steps of AdamW on the golden's first
adapter, frozen weights in bf16, adapters in f32 under autocast, at a quarter of the golden's rate (at the full rate any rounding
grows tenfold every five steps). The runs differ only in their attention: eager, and PyTorch's fused one.
"""

import json
import sys
from pathlib import Path

import torch
from full_training import batch_of
from full_training import load
from peft import PeftModel

STEPS, SHARE = 50, 0.25


class Omni(torch.nn.Module):
    """What PEFT's names of adapters begin with."""

    def __init__(self, thinker):
        super().__init__()
        self.thinker, self.config = thinker, thinker.config

    def forward(self, **inputs):
        return self.thinker(**inputs)

    def prepare_inputs_for_generation(self, *_, **__):
        pass


def curve(folder: Path, fixtures: Path, attention: str) -> list[float]:
    thinker = load(folder)
    thinker.set_attn_implementation(attention)
    thinker = thinker.bfloat16()
    model = PeftModel.from_pretrained(Omni(thinker), folder / "adapter_init", is_trainable=True)
    tuned = [p for p in model.parameters() if p.requires_grad]
    assert tuned and all(p.dtype == torch.float32 for p in tuned), {p.dtype for p in tuned}
    batch = batch_of(folder, fixtures)
    batch["input_features"] = batch["input_features"].bfloat16()
    rate = SHARE * json.loads((folder / "expected.json").read_text())["lora"]["lr"]
    optimiser = torch.optim.AdamW(tuned, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


fixtures, out = map(Path, sys.argv[1:])
curves = {name: {attention: curve(fixtures / name, fixtures, attention) for attention in ("eager", "sdpa")} for name in ("qwen_omni", "qwen_omni_tied")}
out.write_text(json.dumps({"steps": STEPS, "share_of_rate": SHARE, "curves": curves}, indent=1) + "\n")
for name, (eager, sdpa) in ((name, runs.values()) for name, runs in curves.items()):
    apart = [abs(a / b - 1) for a, b in zip(eager, sdpa)]
    print(f"{name}: {eager[0]:.3f} to {eager[-1]:.3f}, apart by {max(apart):.4f} at most, {sum(apart) / len(apart):.4f} in the mean")
