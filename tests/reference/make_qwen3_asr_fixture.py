#!/usr/bin/env python3
"""Reference oracle: a small random Qwen3-ASR checkpoint and what transformers and PEFT compute with it.

    pip install torch==2.11.0 transformers==5.17.0 peft tokenizers
    python make_qwen3_asr_fixture.py OUT_DIR [--seed 1] [--mels 128] [--untied] [--window 50] [--window-infer 200] [--clips 0.3 0.49 0.51 1 3 31 65]

OUT_DIR gets what `save_pretrained` of model and processor writes, the configuration and the template of the same model in the original layout
(original/), a PEFT adapter before and after a training run (adapter_init/, adapter_final/), and the expected values:
  expected.safetensors   mel.<i>: the first 20 and the last 5 frames of clip i; audio.<i> [tokens, hidden]; logits.<i>: rows of the last
                         position before the targets and of all targets
  expected.json          clips as (seed, samples): see clip(); frames and audio tokens; context, language and transcript; input ids, loss, target
                         log-probabilities; greedy tokens and margins, without a language and with it in front of the answer; the losses and
                         gradient norms of a LoRA run on every linear layer over the clips of --train
  gradients.safetensors  of that run's first step: of every LoRA tensor under PEFT's file keys, before clipping; and, of a model whose
                         parts are all trained whole, of some weights under their names in the checkpoint

Every clip is extracted alone, as the ends of clips are mirrored.
"""
import argparse, json, math, os
import numpy as np, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, AddedToken
from transformers import PreTrainedTokenizerFast, Qwen3ASRConfig, Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from peft import LoraConfig, get_peft_model

ap = argparse.ArgumentParser()
ap.add_argument("out"); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--mels", type=int, default=128); ap.add_argument("--untied", action="store_true")
ap.add_argument("--clips", nargs="+", type=float, default=[0.3, 0.49, 0.51, 1, 3, 31, 65]); ap.add_argument("--train", nargs="+", type=int, default=[0, 2, 4])
ap.add_argument("--hidden", type=int, default=32); ap.add_argument("--layers", type=int, default=2); ap.add_argument("--heads", type=int, default=4); ap.add_argument("--kv", type=int, default=2)
ap.add_argument("--head-dim", type=int, default=12); ap.add_argument("--ffn", type=int, default=48)
ap.add_argument("--audio-dim", type=int, default=24); ap.add_argument("--audio-layers", type=int, default=2); ap.add_argument("--audio-heads", type=int, default=2); ap.add_argument("--channels", type=int, default=6)
ap.add_argument("--window", type=int, default=50); ap.add_argument("--window-infer", type=int, default=200)
ap.add_argument("--steps", type=int, default=20); ap.add_argument("--lr", type=float, default=5e-3); ap.add_argument("--rank", type=int, default=4); ap.add_argument("--new-tokens", type=int, default=12)
a = ap.parse_args()
os.makedirs(f"{a.out}/original", exist_ok=True); torch.manual_seed(a.seed); torch.set_num_threads(1)
# Context, language (name in the target, tag in a row) and transcript of each example; None is a language that is not known.
ROWS = [("", "Arabic", "ar-EG", "مرحبا بكم"), ("Names: Maqam, Qwen.", "English", "en", "good morning"), ("", None, None, "نعم"), ("أسماء: مقام", "Arabic", "ar", "هذا نص قصير"),
        ("", "English", "en", "the weather is fine"), ("", "Cantonese", "yue", "早晨"), ("", "Arabic", "apc", "الطقس جميل اليوم")]


def clip(seed, samples):
    """Noise whose loudness changes every half second; whole numbers, so that every language computes the same."""
    x, state = np.empty(samples, np.float32), seed
    for i in range(samples):
        state = (state * 1103515245 + 12345) % (1 << 31)
        x[i] = ((((state >> 15) - 32768) * (1 + (i // 8000) % 7)) >> 4) / 32768
    return x


# ---- tokenizer and processor
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
tok = Tokenizer(models.BPE()); tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); tok.decoder = decoders.ByteLevel()
tok.train_from_iterator([r[3] for r in ROWS] + [r[0] for r in ROWS] + ["language Arabic", "language English", "language None", "system user assistant"] * 3,
                        trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
tok.add_tokens([AddedToken("<asr_text>", special=False, normalized=False)])
ids = {s: tok.token_to_id(s) for s in SPECIAL + ["<asr_text>"]}
# The official checkpoints pad with the end of a turn.
fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|im_end|>",
                               extra_special_tokens={"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"})
HEAD = ("{%- set text = namespace(system='', audio='') -%}{%- for m in messages -%}{%- set parts = [{'type': 'text', 'text': m.content}] if m.content is string else m.content -%}"
        "{%- for p in parts -%}{%- if p.type == 'audio' -%}{%- set text.audio = text.audio + '<|audio_start|><|audio_pad|><|audio_end|>' -%}"
        "{%- elif m.role == 'system' -%}{%- set text.system = text.system + p.text -%}{%- endif -%}{%- endfor -%}{%- endfor -%}"
        "{{- '<|im_start|>system\n' + text.system + '<|im_end|>\n<|im_start|>user\n' + text.audio + '<|im_end|>\n' -}}")
ANSWERS = ("{%- for m in messages if m.role == 'assistant' -%}{%- set text.answer = '' -%}{%- for p in ([{'type': 'text', 'text': m.content}] if m.content is string else m.content) -%}"
           "{%- set text.answer = text.answer + p.text -%}{%- endfor -%}{{- '<|im_start|>assistant\n' -}}{% generation %}{{- text.answer + '<|im_end|>\n' -}}{% endgeneration %}{%- endfor -%}")
TAIL = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
extractor = Qwen3ASRFeatureExtractor(feature_size=a.mels, n_window=a.window)
processor = Qwen3ASRProcessor(feature_extractor=extractor, tokenizer=fast, chat_template=HEAD + ANSWERS + TAIL)
vocab = math.ceil((max(ids.values()) + 1) / 16) * 16

# ---- model
audio_config = {"num_mel_bins": a.mels, "encoder_layers": a.audio_layers, "encoder_attention_heads": a.audio_heads, "encoder_ffn_dim": 2 * a.audio_dim, "d_model": a.audio_dim,
                "n_window": a.window, "n_window_infer": a.window_infer, "downsample_hidden_size": a.channels, "output_dim": a.hidden}
text_config = {"vocab_size": vocab, "hidden_size": a.hidden, "intermediate_size": a.ffn, "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.kv,
               "head_dim": a.head_dim, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": not a.untied}
c = Qwen3ASRConfig(audio_config=dict(audio_config), text_config={"model_type": "qwen3", "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, **text_config}, audio_token_id=ids["<|audio_pad|>"],
                   pad_token_id=ids["<|im_end|>"], eos_token_id=[ids["<|endoftext|>"], ids["<|im_end|>"]], tie_word_embeddings=not a.untied)
model = Qwen3ASRForConditionalGeneration._from_config(c, attn_implementation="eager").float()
g = torch.Generator().manual_seed(a.seed)
for n, p in model.named_parameters():
    if p.dim() > 1: p.data = torch.randn(p.shape, generator=g) * (0.8 / math.sqrt(p[0].numel()))
    elif n.endswith("bias"): p.data = torch.randn(p.shape, generator=g) * 0.05
    else: p.data = 1 + torch.randn(p.shape, generator=g) * 0.1
if not a.untied: model.tie_weights()
model.eval()
model.generation_config.eos_token_id, model.generation_config.pad_token_id = [ids["<|endoftext|>"], ids["<|im_end|>"]], ids["<|im_end|>"]
model.save_pretrained(a.out); processor.save_pretrained(a.out)

# ---- the same in the original layout: names of tensors are the reader's to change
original = {"architectures": ["Qwen3ASRForConditionalGeneration"], "model_type": "qwen3_asr", "support_languages": ["Arabic", "English", "Cantonese"], "thinker_config": {
    "model_type": "qwen3_asr_thinker", "audio_token_id": ids["<|audio_pad|>"], "audio_start_token_id": ids["<|audio_start|>"], "audio_end_token_id": ids["<|audio_end|>"],
    "audio_config": {"model_type": "qwen3_asr_audio_encoder", "activation_function": "gelu", "scale_embedding": False, "max_source_positions": 1500, "conv_chunksize": 500, **audio_config},
    "text_config": {"model_type": "qwen3_asr_text", "hidden_act": "silu", "attention_bias": False, "rope_theta": 1000000,
                    "rope_scaling": {"mrope_interleaved": True, "interleaved": True, "mrope_section": [2, 2, 2], "rope_type": "default", "type": "default"}, **text_config}}}
json.dump(original, open(f"{a.out}/original/config.json", "w"), indent=1)
json.dump({"chat_template": HEAD + TAIL}, open(f"{a.out}/original/chat_template.json", "w"), indent=1)


def features(wav):
    """What the official extractor makes of one clip: log-mel [1, mels, whole chunks] and the mask of its frames."""
    f = extractor(wav, sampling_rate=16000, padding=True, truncation=False, return_attention_mask=True, n_window=a.window, return_tensors="pt")
    return f.input_features.float(), f.attention_mask


def forward(m, x, found):
    return m(input_ids=x, attention_mask=torch.ones_like(x), input_features=found[0], input_features_mask=found[1], use_cache=False).logits[0]


def loss_of(logits, x, n):
    return torch.nn.functional.cross_entropy(logits[len(x[0]) - n - 1 : -1], x[0, -n:], reduction="sum")


def greedy(start, found):
    """Greedy tokens after `start`, and how far each is ahead of the second."""
    x, new = torch.tensor([start]), []
    for _ in range(a.new_tokens):
        last = forward(model, x, found)[-1]; top = last.topk(2).values; k = int(last.argmax()); new.append((k, float(top[0] - top[1])))
        if k in (ids["<|im_end|>"], ids["<|endoftext|>"]): break
        x = torch.cat([x, torch.tensor([[k]])], 1)
    return [k for k, _ in new], [round(m, 5) for _, m in new]


def encode(text):
    return tok.encode(text, add_special_tokens=False).ids


out, meta, exs = {}, [], []
for i, seconds in enumerate(a.clips):
    plan = (10 + i, round(seconds * 16000)); wav = clip(*plan); context, name, tag, text = ROWS[i % len(ROWS)]
    found = features(wav); frames = int(found[1].sum())
    out[f"mel.{i}"] = torch.cat([found[0][0, :, :20], found[0][0, :, frames - 5 : frames]], 1).T
    messages = ([{"role": "system", "content": [{"type": "text", "text": context}]}] if context else []) + [{"role": "user", "content": [{"type": "audio", "audio": wav}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    official = processor(text=prompt, audio=wav, audio_kwargs={"n_window": a.window}, return_tensors="pt")
    p = official.input_ids[0].tolist(); tokens = p.count(ids["<|audio_pad|>"])
    assert (official.input_features - found[0]).abs().max() == 0
    prefix = f"language {name}<asr_text>"
    if a.window == 50 and name:
        forced = processor.apply_transcription_request(wav, language=name, prompt=context or None)
        assert forced.input_ids[0].tolist() == p + encode(prefix), "a forced language stands elsewhere"
    y = encode(prefix + text + "<|im_end|>"); x = torch.tensor([p + y])
    with torch.no_grad():
        logits = forward(model, x, found); heard = model.get_audio_features(*found).pooler_output
        free, forced = greedy(p, found), greedy(p + encode(prefix), found)
    assert len(heard) == tokens
    lp = logits.log_softmax(-1); out[f"audio.{i}"] = heard; out[f"logits.{i}"] = logits[-len(y) - 1 :]
    exs.append((x, len(y), found))
    meta.append({"clips": [plan], "frames": frames, "audio_tokens": [tokens], "context": context, "language": tag, "text": text, "target": prefix + text, "input_ids": x[0].tolist(), "target_len": len(y),
                 "loss": float(loss_of(logits, x, len(y)) / len(y)), "target_logprobs": [float(lp[len(p) - 1 + j, y[j]]) for j in range(len(y))],
                 "greedy": free[0], "greedy_margin": free[1], "forced": forced[0], "forced_margin": forced[1]})
save_file({k: v.float().contiguous() for k, v in out.items()}, f"{a.out}/expected.safetensors")

# ---- gradients of a model that is trained whole
train = [exs[i] for i in a.train]; total = sum(n for _, n, _ in train)
for x, n, found in train: (loss_of(forward(model, x, found), x, n) / total).backward()
KEEP = ["model.audio_tower.conv2d1.weight", "model.audio_tower.conv2d1.bias", "model.audio_tower.conv2d2.weight", "model.audio_tower.conv2d3.weight", "model.audio_tower.conv2d3.bias", "model.audio_tower.conv_out.weight",
        "model.audio_tower.layers.0.self_attn.k_proj.weight", "model.audio_tower.layers.0.self_attn.q_proj.bias", "model.audio_tower.layers.1.fc1.bias", "model.audio_tower.ln_post.weight",
        "model.multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_2.weight", "model.multi_modal_projector.linear_2.bias",
        "model.language_model.embed_tokens.weight", "model.language_model.layers.0.self_attn.q_norm.weight", "model.language_model.layers.0.self_attn.k_norm.weight", "model.language_model.layers.1.self_attn.k_norm.weight",
        "model.language_model.layers.1.self_attn.v_proj.weight", "model.language_model.layers.1.mlp.down_proj.weight", "model.language_model.norm.weight"]
named = dict(model.named_parameters()); grads = {n: named[n].grad.clone() for n in KEEP}
for p in model.parameters(): p.grad = None

# ---- LoRA run: every step sees the clips of --train, mean over target tokens, AdamW, constant rate
RX = (r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)|model\.audio_tower\.(conv_out|layers\.\d+\.(self_attn\.(q|k|v|out)_proj|fc1|fc2))"
      r"|model\.multi_modal_projector\.linear_[12]")
pm = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, target_modules=RX, task_type="CAUSAL_LM"))
for n, p in pm.named_parameters():
    if "lora_A" in n: p.data = torch.randn(p.shape, generator=g) / math.sqrt(p.shape[1])
    if "lora_B" in n: p.data = torch.randn(p.shape, generator=g) * 0.05
pm.save_pretrained(f"{a.out}/adapter_init")
params = [p for p in pm.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
def losses():
    with torch.no_grad(): return [float(loss_of(forward(pm, x, f), x, n) / n) for x, n, f in train]
before, step_losses, norms = losses(), [], []
for step in range(a.steps):
    opt.zero_grad(); total_loss = 0.0
    for x, n, found in train:
        loss = loss_of(forward(pm, x, found), x, n) / total; loss.backward(); total_loss += loss.item()
    if step == 0: grads.update({n.replace(".default", ""): p.grad.clone() for n, p in pm.named_parameters() if p.requires_grad})
    step_losses.append(total_loss); norms.append(float(torch.nn.utils.clip_grad_norm_(params, 1.0))); opt.step()
pm.save_pretrained(f"{a.out}/adapter_final")
save_file({k: v.contiguous() for k, v in grads.items()}, f"{a.out}/gradients.safetensors")
for d in ("adapter_init", "adapter_final"):
    if os.path.exists(f"{a.out}/{d}/README.md"): os.remove(f"{a.out}/{d}/README.md")
json.dump({"examples": meta, "train": a.train, "lora": {"rank": a.rank, "lr": a.lr, "step_losses": step_losses, "grad_norms": norms, "loss_with_adapter_init": before, "loss_with_adapter_final": losses()}},
          open(f"{a.out}/expected.json", "w"), ensure_ascii=False)
print("loss", step_losses[0], "->", step_losses[-1])
