"""Model and work of the peers on one GPU: Qwen2.5-Omni's thinker with random weights, three works, and the definition of useful work.

Sizes are those of `maqam bench train --shape` (crates/engine/src/models/qwen_omni/shapes.rs), works those of `--work` (src/bench/work.rs). There is no vision
tower. The audio tower is frozen and runs in every step; LoRA of rank 16, alpha 32, without dropout, is on the seven linear layers of the
decoder's blocks.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from shapes import SHAPES

MELS = 128
FRAMES_PER_S = 100
IGNORED = -100
SEVEN_LINEARS = r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

@dataclass(frozen=True)
class Load:
    """One example: seconds of audio, prompt and target tokens."""

    prompt: int
    seconds: int
    target: int

    @property
    def frames(self):
        return self.seconds * FRAMES_PER_S

    @property
    def audio(self):
        """Tokens of the audio: a convolution of stride 2, then pairs."""
        return ((self.frames - 1) // 2 + 1 - 2) // 2 + 1

    @property
    def tokens(self):
        return self.prompt + self.audio + self.target


ASR, SUMMARY = Load(40, 10, 50), Load(40, 60, 80)
WORKS = {
    "asr": [ASR] * 16,
    "ssum": [SUMMARY] * 8,
    "mix": [Load(40, 8, 45)] * 4 + [Load(60, 10, 4)] * 4 + [Load(60, 4, 4)] * 4 + [SUMMARY] * 4,
}


def loads(work, clips=None, shorter=1):
    """The examples of a step; `clips` of them in the same proportions, their audio so many times shorter."""
    whole = [Load(load.prompt, load.seconds // shorter, load.target) for load in WORKS[work]]
    return [whole[i * len(whole) // clips] for i in range(clips)] if clips else whole


def build(shape, device, dtype, layers=None):
    """The thinker with its adapters, weights drawn on the device; B is away from zero, so that A has a gradient to compare."""
    text, audio = SHAPES[shape]
    config = Qwen2_5OmniThinkerConfig()
    for name, value in text.items():
        setattr(config.text_config, name, value)
    for name, value in audio.items():
        setattr(config.audio_config, name, value)
    config.audio_config.output_dim = text["hidden_size"]
    if layers:
        config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    config.text_config.use_cache = False
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = shape == "tiny"
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    config.text_config.rope_parameters["mrope_section"] = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    # The vision tower is built as small as possible and dropped.
    vision = config.vision_config
    vision.depth, vision.hidden_size, vision.num_heads, vision.intermediate_size = 1, 16, 2, 16
    vision.out_hidden_size, vision.fullatt_block_indexes = text["hidden_size"], [0]
    # The special tokens are the last ones of the vocabulary here, and the batch never has them.
    last = text["vocab_size"]
    names = ["audio_token_id", "audio_start_token_id", "audio_end_token_id", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"]
    for i, name in enumerate(names):
        setattr(config, name, last - 1 - i)
        setattr(config, name.replace("_id", "_index"), last - 1 - i)

    torch.manual_seed(1)
    with torch.device(device):
        thinker = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=dtype)
    thinker.visual = None
    settings = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=SEVEN_LINEARS)
    # Adapters in the model's own type: PEFT's default, float32 beside bf16, is slower without autocast.
    model = get_peft_model(thinker, settings, autocast_adapter_dtype=False).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 14 * config.text_config.num_hidden_layers
    return model, thinker, trained


def useful_flops(thinker, examples):
    """Operations that a step needs: 4 N_decoder per token, 4 N_head per target token, 2 N_tower for every second frame.

    N counts the weights of matrices, adapters apart: the decoder's linear layers, the head, the tower with its convolutions and
    projection. Recomputation, padding, attention and adapters do not count.
    """
    def matrices(module):
        return sum(p.numel() for name, p in module.named_parameters() if p.ndim > 1 and "lora_" not in name and "audio_bos_eos" not in name)

    decoder, head, tower = matrices(thinker.model.layers), thinker.lm_head.weight.numel(), matrices(thinker.audio_tower)
    tokens, targets, frames = (sum(getattr(load, what) for load in examples) for what in ("tokens", "target", "frames"))
    return 4 * decoder * tokens + 4 * head * targets + 2 * tower * (frames // 2)


@dataclass
class Batch:
    """The same examples twice: padded to rectangles as a data collator makes them, and packed one after the other."""

    padded: dict
    packed: dict


def batch(thinker, examples, device, dtype):
    config = thinker.config
    generator = torch.Generator().manual_seed(2)
    words = config.text_config.vocab_size - 16
    rows, audios = [], []
    for load in examples:
        ids = torch.randint(0, words, (load.tokens,), generator=generator)
        start = load.prompt // 2
        ids[start - 1], ids[start + load.audio] = config.audio_start_token_id, config.audio_end_token_id
        ids[start : start + load.audio] = config.audio_token_id
        labels = ids.clone()
        labels[: load.tokens - load.target] = IGNORED
        rows.append((ids, labels))
        audios.append(torch.randn(MELS, load.frames, generator=generator) * 0.5)

    def rectangle(tensors, value=0):
        longest = max(tensor.shape[-1] for tensor in tensors)
        return torch.stack([torch.nn.functional.pad(tensor, (0, longest - tensor.shape[-1]), value=value) for tensor in tensors]).to(device)

    padded = dict(
        input_ids=rectangle([ids for ids, _ in rows]),
        labels=rectangle([labels for _, labels in rows], IGNORED),
        attention_mask=rectangle([torch.ones_like(ids) for ids, _ in rows]),
        input_features=rectangle(audios).to(dtype),
        feature_attention_mask=rectangle([torch.ones(load.frames, dtype=torch.long) for load in examples]),
    )
    lengths = torch.tensor([load.tokens for load in examples])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    packed = dict(
        ids=torch.cat([ids for ids, _ in rows])[None].to(device),
        labels=torch.cat([labels for _, labels in rows])[None].to(device),
        positions=positions.expand(3, 1, -1).to(device),
        starts=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32).to(device),
        longest=int(lengths.max()),
        features=torch.cat(audios, 1).to(device, dtype),
        frames=torch.tensor([load.frames for load in examples], device=device),
    )
    return Batch(padded, packed)
