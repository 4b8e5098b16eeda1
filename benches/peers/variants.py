"""The ways in which people train the thinker with PyTorch: padded or packed, with Liger's kernels, compiled, checkpointed.

Packed variants call the thinker's parts one after the other (its own forward takes no packed batch): embeddings, tower, decoder, head.
Attention inside each sequence, in the decoder and in the tower's windows, comes from the flash-attn package where it is installed, else
from torch's variable-length attention on a GPU, else from scaled_dot_product_attention, one sequence after the other.
Liger has no patch for this model: RMSNorm, SwiGLU and the fused linear cross-entropy are inserted by hand. Its kernels need a GPU. On a
CPU these variants run with PyTorch's own operations instead, which tests everything else of them.
"""

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from thinker import IGNORED

# The tower hands over the bounds of its windows only where the name has `flash` in it.
PACKED_ATTENTION = "packed_flash"
RECOMPILES = 64


@dataclass(frozen=True)
class Variant:
    name: str
    packed: bool = False
    liger: bool = False
    compiled: bool = False
    checkpointed: bool = False


VARIANTS = {
    variant.name: variant
    for variant in [
        Variant("padded"),
        Variant("padded+checkpointing", checkpointed=True),
        Variant("packed", packed=True),
        Variant("packed+checkpointing", packed=True, checkpointed=True),
        Variant("packed+liger", packed=True, liger=True),
        Variant("packed+compile", packed=True, compiled=True),
        Variant("packed+liger+compile", packed=True, liger=True, compiled=True),
        Variant("packed+liger+checkpointing", packed=True, liger=True, checkpointed=True),
    ]
}


@cache
def kernel(device):
    """The name of the attention over sequences of different lengths, and the function: [tokens, heads, head_dim] three times."""
    if device != "cuda":
        return "sdpa, sequence by sequence", one_by_one
    try:
        from flash_attn import flash_attn_varlen_func

        return "flash-attn", lambda q, k, v, starts, longest, scale, causal: flash_attn_varlen_func(
            q, k, v, starts, starts, longest, longest, softmax_scale=scale, causal=causal
        )
    except ImportError:
        pass
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "sdpa, sequence by sequence", one_by_one

    def grouped(q, k, v, starts, longest, scale, causal):
        return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=(-1, 0) if causal else (-1, -1))

    def repeated(q, k, v, starts, longest, scale, causal):
        groups = q.shape[1] // k.shape[1]
        return grouped(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), starts, longest, scale, causal)

    return ("torch varlen", grouped) if takes_groups(grouped) else ("torch varlen, keys repeated", repeated)


def takes_groups(attention):
    """Returns whether keys and values may have fewer heads than queries. torch's documentation does not say, so it is tried, with gradients."""
    starts = torch.tensor([0, 40, 100], dtype=torch.int32, device="cuda")
    inputs = [torch.randn(100, heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    given = torch.randn(100, 4, 64, device="cuda", dtype=torch.bfloat16)
    try:
        found = torch.autograd.grad(attention(*inputs, starts, 60, 0.125, True), inputs, given)
    except RuntimeError:
        return False
    wanted = torch.autograd.grad(one_by_one(*inputs, starts, 60, 0.125, True), inputs, given)
    return all(((a - b).float().norm() / b.float().norm()).item() < 0.02 for a, b in zip(found, wanted))


def one_by_one(q, k, v, starts, longest, scale, causal):
    lengths = (starts[1:] - starts[:-1]).tolist()
    pieces = [
        scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in parts), is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        for parts in zip(q.split(lengths), k.split(lengths), v.split(lengths))
    ]
    return torch.cat([piece[0].transpose(0, 1) for piece in pieces])


class chosen:
    """The attention of the packed variant that runs; looked up outside of what is compiled."""

    attention = staticmethod(one_by_one)


def packed_attention(module, query, key, value, attention_mask, scaling=None, is_causal=True, cu_seq_lens_q=None, max_length_q=None, **_):
    """transformers' interface: [1, heads, tokens, head_dim] in, [1, tokens, heads, head_dim] out."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return chosen.attention(q, k, v, cu_seq_lens_q, max_length_q, scaling, is_causal)[None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)


@contextmanager
def prepared(variant, model, thinker):
    """The model as the variant wants it, and as it was afterwards. Gives a function from a batch to its loss."""
    with ExitStack() as stack:
        if variant.packed:
            chosen.attention = staticmethod(kernel(thinker.device.type)[1])
            for config in (thinker.config.text_config, thinker.config.audio_config):
                stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
                config._attn_implementation = PACKED_ATTENTION
        with_kernels = variant.liger and has_liger_kernels(thinker.device)
        if with_kernels:
            stack.enter_context(liger())
        if variant.checkpointed:
            thinker.gradient_checkpointing_enable({"use_reentrant": False})
            stack.callback(thinker.gradient_checkpointing_disable)
        if variant.compiled:
            stack.enter_context(compiled(thinker.model.layers))
        if variant.packed:
            yield lambda batch: packed_loss(thinker, with_kernels, **batch.packed)
        else:
            yield lambda batch: model(**batch.padded, use_cache=False).loss


def has_liger_kernels(device):
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def packed_loss(thinker, with_liger, ids, labels, positions, starts, longest, features, frames):
    embedded = thinker.get_input_embeddings()(ids)  # [1, tokens, dim]
    heard = thinker.audio_tower(features, feature_lens=frames).last_hidden_state  # [audio tokens, dim]
    joined = embedded.masked_scatter((ids == thinker.config.audio_token_id)[..., None], heard.to(embedded.dtype))
    states = thinker.model(
        inputs_embeds=joined,
        # Masks made beforehand: none, for attention knows the sequences' bounds.
        attention_mask={"full_attention": None},
        position_ids=positions,
        use_cache=False,
        cu_seq_lens_q=starts,
        max_length_q=longest,
    ).last_hidden_state
    if not with_liger:
        return thinker.loss_function(logits=thinker.lm_head(states), labels=labels, vocab_size=thinker.config.text_config.vocab_size)
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    loss = LigerFusedLinearCrossEntropyFunction.apply(states[0], thinker.lm_head.weight, following[0])
    return loss[0] if isinstance(loss, tuple) else loss


@contextmanager
def liger():
    """Liger's RMSNorm and SwiGLU in the place of the model's own."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    def norm(self, states):
        return LigerRMSNormFunction.apply(states, self.weight, self.variance_epsilon, 0.0, "llama", True)

    def swiglu(self, states):
        return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(states), self.up_proj(states)))

    patches = [(modeling.Qwen2_5OmniRMSNorm, norm), (modeling.Qwen2MLP, swiglu)]
    own = [(cls, cls.forward) for cls, _ in patches]
    for cls, forward in patches:
        cls.forward = forward
    try:
        yield
    finally:
        for cls, forward in own:
            cls.forward = forward


@contextmanager
def compiled(layers):
    """Each layer compiled for these very shapes. Above the limit of recompilations, dynamo would silently run uncompiled code."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=RECOMPILES):
        for layer in layers:
            layer.compile(dynamic=False)
        try:
            yield
        finally:
            for layer in layers:
                layer._compiled_call_impl = None
            torch._dynamo.reset()
