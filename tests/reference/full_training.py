"""Results of transformers and PyTorch in full fine-tuning of a checkpoint's parts: the goldens of tests/it/full_training.rs.

    pip install torch==2.11.0 transformers==5.17.0 safetensors tokenizers soundfile
    python tests/reference/full_training.py tests/fixtures tests/fixtures/full_training.json

For each checkpoint (untied and tied head), every clip of its fixture in one padded batch, mean loss over target tokens, f32:
  gradients   of every trained tensor before the first step: [norm, dot product with cos(0), cos(1), cos(2) ... over its flat values]
  losses      of 10 steps of AdamW on everything
  factors     of 5 steps with the audio encoder's learning rate times 0.1, the projector's times 10
  staged      of 6 steps: only the projector in the first three, everything after; frozen parts have no moments before their first step
AdamW: 1e-3 constant, betas 0.9 and 0.999, eps 1e-8, decay 0.01 on tensors of two dimensions and more, gradient norm clipped at 1.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

torch.set_num_threads(1)
RATE = 1e-3


def load(folder: Path):
    config = AutoConfig.from_pretrained(folder).thinker_config
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation="eager").float()
    state = {}
    for file in folder.glob("model*.safetensors"):
        state |= {name.removeprefix("thinker."): tensor.float() for name, tensor in load_file(file).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("positional_embedding" in name or "inv_freq" in name or name == "lm_head.weight" for name in missing), (missing, unexpected)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def batch_of(folder: Path, fixtures: Path) -> dict:
    expected = json.loads((folder / "expected.json").read_text())["examples"]
    mels = {}
    for name in ("qwen_omni", "qwen_omni_tied"):
        rows, tensors = json.loads((fixtures / name / "expected.json").read_text())["examples"], load_file(fixtures / name / "expected.safetensors")
        mels |= {row["audio"]: tensors[f"mel.{i}"] for i, row in enumerate(rows) if f"mel.{i}" in tensors}
    pad, ids = torch.nn.functional.pad, [torch.tensor(row["input_ids"]) for row in expected]
    clips = [mels[row["audio"]] for row in expected]
    longest, frames = max(map(len, ids)), max(clip.shape[1] for clip in clips)
    labels = [torch.where(torch.arange(len(x)) < len(x) - row["target_len"], -100, x) for x, row in zip(ids, expected)]
    return dict(
        input_ids=torch.stack([pad(x, (0, longest - len(x))) for x in ids]),
        attention_mask=torch.stack([pad(torch.ones_like(x), (0, longest - len(x))) for x in ids]),
        labels=torch.stack([pad(x, (0, longest - len(x)), value=-100) for x in labels]),
        input_features=torch.stack([pad(clip, (0, frames - clip.shape[1])) for clip in clips]),
        feature_attention_mask=torch.stack([(torch.arange(frames) < clip.shape[1]).long() for clip in clips]),
    )


def part(name: str) -> str:
    return "projector" if name.startswith("audio_tower.proj.") else "audio_encoder" if name.startswith("audio_tower.") else "decoder"


def trained(model):
    return [(name, p) for name, p in model.named_parameters() if not name.startswith("visual.") and "positional_embedding" not in name
            and "audio_bos_eos_token" not in name]


def optimiser_of(model, factors: dict):
    groups = [{"params": [p], "lr": RATE * factors.get(part(name), 1.0), "weight_decay": 0.01 if p.dim() > 1 else 0.0} for name, p in trained(model)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def run(model, batch, steps: int, factors: dict = {}, parts=lambda step: ("audio_encoder", "projector", "decoder")) -> list[float]:
    model = copy.deepcopy(model)
    optimiser, losses = optimiser_of(model, factors), []
    for step in range(steps):
        model.zero_grad(set_to_none=True)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        for name, p in model.named_parameters():
            if part(name) not in parts(step):
                p.grad = None
        torch.nn.utils.clip_grad_norm_([p for _, p in trained(model)], 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def main(fixtures: Path, out: Path) -> None:
    golden = {}
    for name in ("qwen_omni", "qwen_omni_tied"):
        model, batch = load(fixtures / name), batch_of(fixtures / name, fixtures)
        model(**batch, use_cache=False).loss.backward()
        sketch = lambda g: [float(g.double().norm()), float((g.double().flatten() * torch.cos(torch.arange(g.numel(), dtype=torch.float64))).sum())]
        gradients = {f"thinker.{key}": sketch(p.grad) for key, p in trained(model) if p.grad is not None}
        model.zero_grad(set_to_none=True)
        golden[name] = {
            "gradients": gradients,
            "losses": run(model, batch, 10),
            "factors": run(model, batch, 5, {"audio_encoder": 0.1, "projector": 10.0}),
            "staged": run(model, batch, 6, parts=lambda step: ("projector",) if step < 3 else ("audio_encoder", "projector", "decoder")),
        }
        print(name, golden[name]["losses"][:3], golden[name]["staged"], len(gradients))
    out.write_text(json.dumps(golden, indent=1) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
