#!/usr/bin/env python3
"""Reference oracle: one decoder layer and one audio encoder layer of Qwen2.5-Omni, alone, forward and backward in float64.

    pip install torch==2.11.0 transformers==5.17.0 safetensors
    python make_layer_goldens.py OUT.safetensors --seed 3

The layers are transformers' own (eager attention), their parts that compute in float32 raised to float64; every sequence goes
through by itself, at positions from 0, and the weights' gradients are sums over the sequences. Everything is float64. A finite difference
along a random direction confirms the gradients before the file is written.

  decoder.lengths, encoder.lengths   [3] int64: tokens per sequence; packed tensors hold the sequences one after another
  <part>.input, <part>.output        [tokens, hidden]
  <part>.upstream                    [tokens, hidden]: the gradient of the output
  <part>.input_grad                  [tokens, hidden]
  <part>.weight.<name>, <part>.grad.<name>   each weight under its checkpoint name inside a layer (self_attn.q_proj.weight, ...)
  decoder.cos, decoder.sin           [longest, head_dim]: rotary tables, both halves the same
decoder: hidden 32, 4 heads, 2 key/value heads, head_dim 8, intermediate 40, rope theta 1e6, RMSNorm eps 1e-6; causal inside each sequence.
encoder: d_model 16, 2 heads, ffn 32, LayerNorm eps 1e-5, exact GELU; full attention inside each window, no mask, no positions.
Sizes are in the file's metadata too. LoRA needs no file of its own: with W' = W + s B A put in place of W, dA = s B^T dW', dB = s dW' A^T.
"""
import argparse, torch
from safetensors.torch import save_file
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers import Qwen2_5OmniThinkerConfig

class Float64Torch:
    """`torch` with float32 meaning float64, for modules that insist on float32 inside (RMSNorm, the softmax of eager attention)."""
    float32 = torch.float64
    def __getattr__(self, name): return getattr(torch, name)
omni.torch = Float64Torch()

ap = argparse.ArgumentParser(); ap.add_argument("out"); ap.add_argument("--seed", type=int, default=3); a = ap.parse_args()
torch.set_num_threads(1); g = torch.Generator().manual_seed(a.seed); rand = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
c = Qwen2_5OmniThinkerConfig(); t, au = c.text_config, c.audio_config
t.hidden_size, t.num_attention_heads, t.num_key_value_heads, t.intermediate_size, t.num_hidden_layers, t.layer_types = 32, 4, 2, 40, 1, ["full_attention"]
au.d_model, au.encoder_attention_heads, au.encoder_ffn_dim = 16, 2, 32
t._attn_implementation = au._attn_implementation = "eager"
decoder, encoder = omni.Qwen2_5OmniDecoderLayer(t, 0).double().eval(), omni.Qwen2_5OmniAudioEncoderLayer(au).double().eval()
DECODER, ENCODER = [5, 1, 9], [7, 3, 4]
hd = t.hidden_size // t.num_attention_heads; inv = 1e6 ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd)
angle = torch.arange(max(DECODER), dtype=torch.float64)[:, None] * inv; cos, sin = (torch.cat([f, f], 1) for f in (angle.cos(), angle.sin()))

def decode(x):
    n = len(x); mask = torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    return decoder(x[None], attention_mask=mask, position_embeddings=(cos[None, :n], sin[None, :n]))[0]
def encode(x): return encoder(x, cu_seqlens=torch.tensor([0, len(x)]))[0]

out = {"decoder.cos": cos, "decoder.sin": sin}
for part, layer, run, lengths, width in (("decoder", decoder, decode, DECODER, t.hidden_size), ("encoder", encoder, encode, ENCODER, au.d_model)):
    for n, p in layer.named_parameters():
        p.data = rand(*p.shape) * (0.8 / p.shape[1] ** 0.5 if p.dim() == 2 else 0.2) + (1 if "norm.weight" in n or "layernorm.weight" in n else 0)
    x, up = rand(sum(lengths), width).requires_grad_(), rand(sum(lengths), width)
    forward = lambda: torch.cat([run(s) for s in x.split(lengths)])
    y = forward(); y.backward(up); assert y.dtype == torch.float64
    tensors = dict(layer.named_parameters()) | {"input": x}; grads = {n: p.grad.clone() for n, p in tensors.items()}
    direction, h = {n: rand(*p.shape) for n, p in tensors.items()}, 1e-5
    with torch.no_grad():
        def shifted(by):
            for n, p in tensors.items(): p.add_(direction[n], alpha=by)
            value = (forward() * up).sum()
            for n, p in tensors.items(): p.add_(direction[n], alpha=-by)
            return value
        numeric = (shifted(h) - shifted(-h)) / (2 * h)
    exact = sum((grads[n] * direction[n]).sum() for n in tensors); error = float(abs(numeric - exact) / abs(exact))
    assert error < 1e-8 and all(v.abs().max() > 0 for v in grads.values()), error
    print(part, "gradient against a finite difference:", error)
    out |= {f"{part}.lengths": torch.tensor(lengths), f"{part}.input": x.detach(), f"{part}.output": y.detach(), f"{part}.upstream": up, f"{part}.input_grad": grads.pop("input")}
    out |= {f"{part}.weight.{n}": p.detach() for n, p in layer.named_parameters()} | {f"{part}.grad.{n}": v for n, v in grads.items()}
save_file({n: v.contiguous() for n, v in out.items()}, a.out, metadata={
    "decoder": "hidden 32, heads 4, kv_heads 2, head_dim 8, intermediate 40, rope_theta 1000000, rms_norm_eps 1e-6, causal", "encoder": "d_model 16, heads 2, ffn 32, layer_norm_eps 1e-5, gelu erf, full attention",
    "tensors": "part.{lengths,input,output,upstream,input_grad}, part.weight.NAME, part.grad.NAME; packed sequences, float64", "made_by": "make_layer_goldens.py"})
