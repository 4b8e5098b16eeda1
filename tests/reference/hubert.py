"""Small encoders of the HuBERT family, their results in transformers, and twenty training steps in PyTorch.

    python tests/reference/hubert.py crates/engine/tests/fixtures/hubert

Ran with torch 2.11.0, transformers 5.17.0 on the CPU, one thread, f32. Weights and clips are random (seeded).

For each shape NAME a folder with a checkpoint and
  expected.safetensors
    clip.I                   [samples]          two clips, as the feature extractor leaves them
    hidden.I.L               [frames, hidden]   hidden states of each clip on its own
    padded.last              [2, frames, hidden]  last hidden states of both, the shorter padded with zeros
    masked.I, codes.I        [frames]           which frames are masked, and the cluster ids to predict
    projection, codes        the head: [dim, hidden] and [number of codes, dim], both without bias
    gradient.NAME            gradient of the prediction loss for every tensor, before the first step
  expected.json: losses of twenty steps of AdamW; with a CTC head (NAME ctc) the targets, the losses and gradients of CTC.

The prediction loss is the sum over frames of weight * cross-entropy over the sum of weights, weight 1 for masked frames and 0.5 for the
others, logits cos / 0.1: HubertModel with given mask indices, and the head of this script.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertForCTC, HubertModel, Wav2Vec2Config, Wav2Vec2Model

torch.set_num_threads(1)
out = pathlib.Path(sys.argv[1])

SMALL = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, conv_dim=[12] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, vocab_size=11, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, final_dropout=0.0, mask_time_prob=0.05, mask_feature_prob=0.0, pad_token_id=0, ctc_zero_infinity=True)
SHAPES = {
    "base": (HubertConfig, HubertModel, dict(SMALL)),
    "large": (HubertConfig, HubertModel, dict(SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, dict(SMALL, do_stable_layer_norm=True)),
    "odd": (HubertConfig, HubertModel, dict(SMALL, hidden_size=20, num_attention_heads=2, conv_dim=[6, 10, 8], conv_kernel=[11, 4, 5], conv_stride=[4, 5, 3], conv_bias=True, num_conv_pos_embeddings=7, num_conv_pos_embedding_groups=1, feat_proj_layer_norm=False)),
    "ctc": (HubertConfig, HubertForCTC, dict(SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, ctc_loss_reduction="mean")),
}


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "original0" in name:
            p.data = p.data * (1 + 0.1 * torch.randn(p.shape, generator=g))
        elif p.dim() > 1:
            p.data = torch.randn(p.shape, generator=g) / np.sqrt(np.prod(p.shape[1:]))
        elif name.endswith("bias") or name == "masked_spec_embed":
            p.data = torch.randn(p.shape, generator=g) * 0.1
        else:
            p.data = 1 + torch.randn(p.shape, generator=g) * 0.1
    return g


def normalised(x):
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-7)


for seed, (name, (config_class, model_class, settings)) in enumerate(SHAPES.items(), 1):
    torch.manual_seed(seed)
    config = config_class(**settings)
    model = model_class(config).eval()
    g = randomise(model, seed)
    folder = out / name
    model.save_pretrained(folder)
    is_layer = config.feat_extract_norm == "layer"
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000, "padding_value": 0.0, "do_normalize": is_layer, "return_attention_mask": is_layer}))
    clips = [torch.randn(n, generator=g) * torch.linspace(0.2, 1.0, n) for n in (3777, 2400)]
    if is_layer:
        clips = [normalised(clip) for clip in clips]
    tensors, facts = {}, {}
    for i, clip in enumerate(clips):
        tensors[f"clip.{i}"] = clip
        with torch.no_grad():
            found = model(clip[None], output_hidden_states=True)
        for layer, hidden in enumerate(found.hidden_states):
            tensors[f"hidden.{i}.{layer}"] = hidden[0]
    padded = torch.stack([torch.nn.functional.pad(clip, (0, len(clips[0]) - len(clip))) for clip in clips])
    attention = torch.stack([(torch.arange(len(clips[0])) < len(clip)).long() for clip in clips])
    with torch.no_grad():
        tensors["padded.last"] = model(padded, attention_mask=attention, output_hidden_states=True).hidden_states[-1]

    if name == "ctc":
        targets = [[3, 3, 7], [5]]
        losses = [model(clip[None], labels=torch.tensor([target])).loss for clip, target in zip(clips, targets)]
        with torch.no_grad():
            for i, clip in enumerate(clips):
                tensors[f"logits.{i}"] = model(clip[None]).logits[0]
        sum(losses).backward()
        tensors["gradient.lm_head.weight"] = model.lm_head.weight.grad
        tensors["gradient.lm_head.bias"] = model.lm_head.bias.grad
        tensors["gradient.encoder.layers.0.attention.q_proj.weight"] = model.hubert.encoder.layers[0].attention.q_proj.weight.grad
        facts |= {"ctc_targets": targets, "ctc_losses": [float(loss) for loss in losses]}
    else:
        dim, num_codes = 10, 9
        projection = torch.nn.Parameter(torch.randn(dim, config.hidden_size, generator=g) / np.sqrt(config.hidden_size))
        codes = torch.nn.Parameter(torch.randn(num_codes, dim, generator=g))
        tensors |= {"projection": projection.data.clone(), "codes": codes.data.clone()}
        for i in range(2):
            frames = len(tensors[f"hidden.{i}.0"])
            tensors[f"masked.{i}"] = (torch.rand(frames, generator=g) < 0.4).float()
            tensors[f"codes.{i}"] = torch.randint(0, num_codes, (frames,), generator=g).float()
        named = [(n, p) for n, p in model.named_parameters()] + [("head.projection", projection), ("head.codes", codes)]
        decayed = [p for _, p in named if sum(n > 1 for n in p.shape) > 1]
        others = [p for _, p in named if sum(n > 1 for n in p.shape) <= 1]
        optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
        curve = []
        for step in range(20):
            total, weights = 0, 0
            for i, clip in enumerate(clips):
                mask = tensors[f"masked.{i}"].bool()
                x = model(clip[None], mask_time_indices=mask[None]).last_hidden_state[0] @ projection.T
                logits = torch.nn.functional.cosine_similarity(x[:, None], codes[None], dim=-1) / 0.1
                weight = torch.where(mask, 1.0, 0.5)
                total = total + (weight * torch.nn.functional.cross_entropy(logits, tensors[f"codes.{i}"].long(), reduction="none")).sum()
                weights += float(weight.sum())
            loss = total / weights
            optimiser.zero_grad()
            loss.backward()
            if step == 0:
                tensors |= {f"gradient.{n}": p.grad.clone() for n, p in named}
            curve.append(float(loss.detach()))
            torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimiser.step()
        facts["losses"] = curve
    save_file({k: v.detach().contiguous().float().clone() for k, v in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(name, [len(tensors[f"hidden.{i}.0"]) for i in range(2)], facts)
