"""A HuBERT encoder before the decoder of Qwen2-Audio in PyTorch: audio embeddings, loss and gradients.

    python tests/reference/speech_encoder.py tests/fixtures/speech_encoder.safetensors

Ran with torch 2.15.0, transformers 5.17.0 on the CPU, one thread, f32.

Frames of `HubertModel` (the fixtures of `hubert.py`) in stacks of STACK, the last one filled up with zeros; then LayerNorm, Linear, GELU,
Linear, whose rows take the places of audio tokens among the embeddings of the decoder of tests/fixtures/qwen2_audio. Each of two clips has
a sequence of its own: three tokens, the audio, four tokens, the last three of which are targets of equal weight.

For each shape NAME:
  NAME.projector.KEY   a random projector: norm, linear_1, linear_2
  NAME.tokens.I        [tokens], audio tokens as -1
  NAME.embeddings.I    [audio tokens, hidden], the projector's output
  NAME.loss            []
  NAME.gradient.KEY    of every tensor of the projector (`projector.`) and of the encoder (`encoder.`)
"""

import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import HubertModel, Qwen2AudioForConditionalGeneration

torch.set_num_threads(1)
root = pathlib.Path(__file__).parents[2]
STACK, TARGETS = 3, 3

out = {}
for name in ["base", "large"]:
    folder = root / "crates/engine/tests/fixtures/hubert" / name
    golden = load_file(folder / "expected.safetensors")
    encoder = HubertModel.from_pretrained(folder).eval()
    llm = Qwen2AudioForConditionalGeneration.from_pretrained(root / "tests/fixtures/qwen2_audio").eval()
    hidden = llm.config.text_config.hidden_size
    width = STACK * encoder.config.hidden_size
    g = torch.Generator().manual_seed(5)
    r = lambda *shape, scale=1.0: torch.nn.Parameter(torch.randn(*shape, generator=g) * scale)
    projector = {
        "norm.weight": torch.nn.Parameter(1 + 0.1 * torch.randn(width, generator=g)),
        "norm.bias": r(width, scale=0.1),
        "linear_1.weight": r(hidden, width, scale=width**-0.5),
        "linear_1.bias": r(hidden, scale=0.1),
        "linear_2.weight": r(hidden, hidden, scale=hidden**-0.5),
        "linear_2.bias": r(hidden, scale=0.1),
    }

    def project(clip):
        frames = encoder(clip[None]).last_hidden_state[0]
        missing = -len(frames) % STACK
        stacks = torch.cat([frames, frames.new_zeros(missing, frames.shape[1])]).reshape(-1, width)
        x = torch.nn.functional.layer_norm(stacks, (width,), projector["norm.weight"], projector["norm.bias"])
        x = torch.nn.functional.gelu(x @ projector["linear_1.weight"].T + projector["linear_1.bias"])
        return x @ projector["linear_2.weight"].T + projector["linear_2.bias"]

    table = llm.get_input_embeddings()
    losses = []
    for i in range(2):
        embeddings = project(golden[f"clip.{i}"])
        text = torch.randint(5, 300, (7,), generator=g)
        tokens = torch.cat([text[:3], torch.full((len(embeddings),), -1), text[3:]])
        inputs = torch.cat([table(text[:3]), embeddings, table(text[3:])])[None]
        language = llm.model.language_model if hasattr(llm, "model") else llm.language_model.model
        head = llm.lm_head if hasattr(llm, "lm_head") else llm.language_model.lm_head
        logits = head(language(inputs_embeds=inputs).last_hidden_state[0])
        losses.append(torch.nn.functional.cross_entropy(logits[-TARGETS - 1 : -1], tokens[-TARGETS:], reduction="sum"))
        out[f"{name}.tokens.{i}"] = tokens
        out[f"{name}.embeddings.{i}"] = embeddings.detach().contiguous()
    loss = sum(losses) / (2 * TARGETS)
    loss.backward()
    out[f"{name}.loss"] = loss.detach()
    for key, p in projector.items():
        out[f"{name}.projector.{key}"] = p.detach().clone()
        out[f"{name}.gradient.projector.{key}"] = p.grad.clone()
    for key, p in encoder.named_parameters():
        if p.grad is not None:
            out[f"{name}.gradient.encoder.{key}"] = p.grad.clone()
    print(name, loss.item(), [len(out[f"{name}.embeddings.{i}"]) for i in range(2)])

save_file(out, sys.argv[1])
