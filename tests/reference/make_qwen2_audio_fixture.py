#!/usr/bin/env python3
"""Reference oracle: a small random Qwen2-Audio checkpoint and the results of transformers and PEFT with it.

    pip install torch==2.11.0 transformers==5.17.0 peft tokenizers
    python make_qwen2_audio_fixture.py OUT_DIR [--seed 1] [--mels 80] [--tie] [--clips 0.3 29.99 30.01 65 1.7] [--train 0 4]

OUT_DIR gets what `save_pretrained` of model and processor writes, a PEFT adapter before and after a training run (adapter_init/,
adapter_final/), and the expected values:
  expected.safetensors   mel.<i>.<w>: the first 20 frames of window w of clip i and, from row 20 on, the last 5 that are marked as valid with
                         the two of the padding after them, where there are any; audio.<i> [tokens, hidden]; logits.<i>: rows of the last
                         position before the targets and of all targets
  expected.json          clips as (seed, samples): see clip(); input ids, loss, target log-probabilities, greedy tokens and margins; the
                         losses and gradient norms of a LoRA run on every linear layer over the clips of --train
  gradients.safetensors  of that run's first step: of every LoRA tensor under PEFT's file keys, before clipping; and, in full fine-tuning
                         of all parts, of some weights under their names in the checkpoint

A clip of more than 30 s is encoded in windows of 30 s, each as transformers encodes it alone, and their embeddings are joined.
"""
import argparse, json, math, os
import numpy as np, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, WhisperFeatureExtractor
from peft import LoraConfig, get_peft_model

ap = argparse.ArgumentParser()
ap.add_argument("out"); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--mels", type=int, default=128); ap.add_argument("--tie", action="store_true")
ap.add_argument("--clips", nargs="+", type=float, default=[0.3, 29.99, 30.01, 65, 1.7]); ap.add_argument("--train", nargs="+", type=int, default=[0, 2, 4])
ap.add_argument("--hidden", type=int, default=32); ap.add_argument("--layers", type=int, default=2); ap.add_argument("--heads", type=int, default=4); ap.add_argument("--kv", type=int, default=2); ap.add_argument("--ffn", type=int, default=48)
ap.add_argument("--audio-dim", type=int, default=24); ap.add_argument("--audio-layers", type=int, default=2); ap.add_argument("--audio-heads", type=int, default=2)
ap.add_argument("--steps", type=int, default=20); ap.add_argument("--lr", type=float, default=5e-3); ap.add_argument("--rank", type=int, default=4); ap.add_argument("--new-tokens", type=int, default=12)
a = ap.parse_args()
os.makedirs(a.out, exist_ok=True); torch.manual_seed(a.seed); torch.set_num_threads(1)
WINDOW = 480000
TEXTS = ["مرحبا بكم", "هذا نص قصير", "good morning", "الطقس جميل اليوم", "نعم"]
INSTRUCTIONS = ["Transcribe the speech.", "ما المكتوب هنا؟"]


def clip(seed, samples):
    """Noise whose loudness changes every half second; whole numbers, so that every language computes the same."""
    x, state = np.empty(samples, np.float32), seed
    for i in range(samples):
        state = (state * 1103515245 + 12345) % (1 << 31)
        x[i] = ((((state >> 15) - 32768) * (1 + (i // 8000) % 7)) >> 4) / 32768
    return x


# ---- tokenizer and processor
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
tok = Tokenizer(models.BPE()); tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(TEXTS + INSTRUCTIONS + ["You are a helpful assistant.", "system user assistant", "Audio 1: Audio 2: "] * 3,
                        trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
ids = {s: tok.token_to_id(s) for s in SPECIAL}
fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>")
processor = Qwen2AudioProcessor(feature_extractor=WhisperFeatureExtractor(feature_size=a.mels), tokenizer=fast)
vocab = math.ceil((max(ids.values()) + 1) / 16) * 16

# ---- model
c = Qwen2AudioConfig(
    audio_config={"num_mel_bins": a.mels, "encoder_layers": a.audio_layers, "encoder_attention_heads": a.audio_heads, "encoder_ffn_dim": 2 * a.audio_dim, "d_model": a.audio_dim},
    text_config={"model_type": "qwen2", "vocab_size": vocab, "hidden_size": a.hidden, "intermediate_size": a.ffn, "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.kv,
                 "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": a.tie},
    audio_token_index=ids["<|AUDIO|>"], tie_word_embeddings=a.tie)
model = Qwen2AudioForConditionalGeneration._from_config(c, attn_implementation="eager").float()
g = torch.Generator().manual_seed(a.seed)
for n, p in model.named_parameters():
    if "embed_positions" in n: p.data = torch.randn(p.shape, generator=g) * 0.5
    elif p.dim() > 1: p.data = torch.randn(p.shape, generator=g) * (0.8 / math.sqrt(p.shape[-1] if p.dim() == 2 else p.shape[1] * p.shape[2]))
    elif n.endswith("bias"): p.data = torch.randn(p.shape, generator=g) * 0.05
    else: p.data = 1 + torch.randn(p.shape, generator=g) * 0.1
if a.tie: model.lm_head.weight.data = model.model.language_model.embed_tokens.weight.data.clone()  # transformers 5.17 ties nothing in this class
model.eval()
model.generation_config.eos_token_id, model.generation_config.pad_token_id = ids["<|im_end|>"], ids["<|endoftext|>"]
model.save_pretrained(a.out); processor.save_pretrained(a.out)


def windows(wav):
    """Output of the official processor for each window: log-mel [mels, 3000] and number of valid frames."""
    found = []
    for start in range(0, len(wav), WINDOW):
        f = processor.feature_extractor(wav[start:start + WINDOW], sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
        found.append((f.input_features[0], int(f.attention_mask.sum())))
    return found


def hear(m, found):
    """Embeddings of a clip's audio tokens, window after window."""
    inner = m.model if isinstance(m, Qwen2AudioForConditionalGeneration) else m
    parts = []
    for mel, n in found:
        L = (n - 1) // 2 + 1
        mask = torch.zeros(1, 1, 1500, 1500); mask[..., L:] = torch.finfo(torch.float32).min
        out = inner.audio_tower(mel[None], attention_mask=mask).last_hidden_state
        parts.append(inner.multi_modal_projector(out)[0, : L // 2])
    return torch.cat(parts)


def forward(m, x, found):
    inner = m.base_model.model if hasattr(m, "peft_config") else m
    emb = inner.get_input_embeddings()(x).clone(); heard = torch.cat([hear(inner, f) for f in found])
    emb[0, x[0] == ids["<|AUDIO|>"]] = heard
    return inner(inputs_embeds=emb, attention_mask=torch.ones_like(x), use_cache=False).logits[0], heard


def loss_of(logits, x, n):
    return torch.nn.functional.cross_entropy(logits[len(x[0]) - n - 1 : -1], x[0, -n:], reduction="sum")


out, meta, exs = {}, [], []
plans = [[(10 + i, round(s * 16000))] for i, s in enumerate(a.clips)] + [[(20, 8000), (21, 20000)]]
for i, plan in enumerate(plans):
    wavs = [clip(*p) for p in plan]; text, ins = TEXTS[i % len(TEXTS)], INSTRUCTIONS[i % 2]
    found = [windows(w) for w in wavs]
    for j, f in enumerate(found):
        for w, (mel, n) in enumerate(f):
            out[f"mel.{i}.{j}.{w}"] = torch.cat([mel[:, :20], mel[:, max(n - 5, 0) : n + 2]], 1).T
    messages = [{"role": "user", "content": [*({"type": "audio", "audio": "x"} for _ in wavs), {"type": "text", "text": ins}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = [sum(((n - 1) // 2 + 1) // 2 for _, n in f) for f in found]
    expanded = prompt
    for t in tokens: expanded = expanded.replace("<|AUDIO|>", "\0" * t, 1)
    p = tok.encode(expanded.replace("\0", "<|AUDIO|>"), add_special_tokens=False).ids
    short = all(len(w) <= WINDOW for w in wavs)
    if short:
        official = processor(text=prompt, audio=wavs, sampling_rate=16000, return_tensors="pt")
        assert official.input_ids[0].tolist() == p, "the processor writes other tokens"
    y = tok.encode(text + "<|im_end|>", add_special_tokens=False).ids
    x = torch.tensor([p + y])
    with torch.no_grad():
        logits, heard = forward(model, x, found)
        if short:  # the same through the model's own forward
            whole = model(input_ids=x, attention_mask=torch.ones_like(x), input_features=official.input_features, feature_attention_mask=official.feature_attention_mask, use_cache=False).logits[0]
            assert (whole - logits).abs().max() < 1e-4, float((whole - logits).abs().max())
        gen, new = torch.tensor([p]), []
        for _ in range(a.new_tokens):
            last = forward(model, gen, found)[0][-1]; top = last.topk(2).values; k = int(last.argmax()); new.append((k, float(top[0] - top[1])))
            if k == ids["<|im_end|>"]: break
            gen = torch.cat([gen, torch.tensor([[k]])], 1)
    lp = logits.log_softmax(-1)
    out[f"audio.{i}"] = heard; out[f"logits.{i}"] = logits[-len(y) - 1 :]
    exs.append((x, len(y), found))
    meta.append({"clips": plan, "audio_tokens": tokens, "instruction": ins, "target": text, "input_ids": x[0].tolist(), "target_len": len(y), "loss": float(loss_of(logits, x, len(y)) / len(y)),
                 "target_logprobs": [float(lp[len(p) - 1 + j, y[j]]) for j in range(len(y))], "greedy": [k for k, _ in new], "greedy_margin": [round(m, 5) for _, m in new]})
save_file({k: v.float().contiguous() for k, v in out.items()}, f"{a.out}/expected.safetensors")

# ---- gradients of a model that is trained whole (the table of positions is frozen in transformers)
train = [exs[i] for i in a.train]; total = sum(n for _, n, _ in train)
for n, p in model.named_parameters(): p.requires_grad_("embed_positions" not in n)
for x, n, found in train: (loss_of(forward(model, x, found)[0], x, n) / total).backward()
KEEP = {"model.audio_tower.conv1.weight": "audio_tower.conv1.weight", "model.audio_tower.conv1.bias": "audio_tower.conv1.bias", "model.audio_tower.conv2.weight": "audio_tower.conv2.weight",
        "model.audio_tower.layers.0.self_attn.k_proj.weight": "audio_tower.layers.0.self_attn.k_proj.weight", "model.audio_tower.layers.1.fc1.bias": "audio_tower.layers.1.fc1.bias",
        "model.audio_tower.layer_norm.weight": "audio_tower.layer_norm.weight", "model.multi_modal_projector.linear.weight": "multi_modal_projector.linear.weight",
        "model.multi_modal_projector.linear.bias": "multi_modal_projector.linear.bias", "model.language_model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
        "model.language_model.layers.1.mlp.down_proj.weight": "language_model.model.layers.1.mlp.down_proj.weight"}
grads = {new: dict(model.named_parameters())[old].grad.clone() for old, new in KEEP.items()}
if a.tie: grads["language_model.model.embed_tokens.weight"] += model.lm_head.weight.grad
for p in model.parameters(): p.grad = None

# ---- LoRA run: every step sees the clips of --train, mean over target tokens, AdamW, constant rate
RX = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)|model\.audio_tower\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|fc1|fc2)|model\.multi_modal_projector\.linear"
pm = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, target_modules=RX, task_type="CAUSAL_LM"))
for n, p in pm.named_parameters():
    if "lora_A" in n: p.data = torch.randn(p.shape, generator=g) / math.sqrt(p.shape[1])
    if "lora_B" in n: p.data = torch.randn(p.shape, generator=g) * 0.05
pm.save_pretrained(f"{a.out}/adapter_init")
params = [p for p in pm.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
def losses():
    with torch.no_grad(): return [float(loss_of(forward(pm, x, f)[0], x, n) / n) for x, n, f in train]
before, step_losses, norms = losses(), [], []
for step in range(a.steps):
    opt.zero_grad(); total_loss = 0.0
    for x, n, found in train:
        loss = loss_of(forward(pm, x, found)[0], x, n) / total; loss.backward(); total_loss += loss.item()
    if step == 0: grads.update({n.replace(".default", ""): p.grad.clone() for n, p in pm.named_parameters() if p.requires_grad})
    step_losses.append(total_loss); norms.append(float(torch.nn.utils.clip_grad_norm_(params, 1.0))); opt.step()
pm.save_pretrained(f"{a.out}/adapter_final")
save_file({k: v.contiguous() for k, v in grads.items()}, f"{a.out}/gradients.safetensors")
for d in ("adapter_init", "adapter_final"):
    if os.path.exists(f"{a.out}/{d}/README.md"): os.remove(f"{a.out}/{d}/README.md")
json.dump({"examples": meta, "train": a.train, "lora": {"rank": a.rank, "lr": a.lr, "step_losses": step_losses, "grad_norms": norms, "loss_with_adapter_init": before, "loss_with_adapter_final": losses()}},
          open(f"{a.out}/expected.json", "w"), ensure_ascii=False)
print("loss", step_losses[0], "->", step_losses[-1])
