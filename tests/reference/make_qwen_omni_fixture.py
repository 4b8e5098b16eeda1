#!/usr/bin/env python3
"""Reference oracle: a small random Qwen2.5-Omni checkpoint and the results of Hugging Face's libraries with it.

    pip install torch==2.11.0 transformers==5.17.0 peft soundfile librosa tokenizers
    python make_qwen_omni_fixture.py OUT_DIR --seed 1 --audio a.wav b.wav --text ... [--tie] [--bf16 | --f16] [--hidden 96 --layers 3 ...]
                                     [--lora-all] [--alpha 4] [--b-std 0.1] [--single-file] [--config5] [--no-mel]

OUT_DIR gets the layout of a real checkpoint (config.json, sharded safetensors named thinker.*, tokenizer.json,
preprocessor_config.json, chat_template.json), a PEFT adapter (adapter_init/), and the expected values:
  expected.safetensors  mel.<i> [128, frames], audio.<i> [tokens, hidden], logits.<i> [seq, vocab] (f32, one clip at a time)
  expected.json         prompts, input ids, label mask, loss and target log-probabilities per example, greedy continuations,
                        a LoRA training run (fixed batches, AdamW): the loss of every step, and the adapter it ends with (adapter_final/)
  gradients.safetensors with --lora-all: the gradient of every LoRA tensor at step 0, before clipping, under PEFT's file keys
                        (loss: mean over all target tokens of the batch of all clips)
--lora-all   LoRA on every linear layer: decoder q k v o gate up down, audio encoder q k v out fc1 fc2, projector proj
--alpha      lora_alpha (default 2 * rank);  --b-std: spread of the random B (default 0.02)
--f16        weights stored in float16 (rounded to it before anything is computed, so float32 arithmetic sees the stored values)
--config5    config.json as transformers 5 saves it (rope_parameters, layer_types, dtype); else in the style of the published checkpoints
--no-mel     leaves mel.<i> out (another fixture holds the same clips)
"""
import argparse, json, os, sys, math
import numpy as np, torch, soundfile as sf
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, AddedToken
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor
from peft import LoraConfig, get_peft_model

ap = argparse.ArgumentParser()
ap.add_argument("out"); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--audio", nargs="+", required=True)
ap.add_argument("--text", nargs="+", required=True, help="target text of each clip, same order")
ap.add_argument("--instruction", nargs="+", default=["Transcribe the speech."], help="one, or one per clip")
ap.add_argument("--hidden", type=int, default=96); ap.add_argument("--layers", type=int, default=3)
ap.add_argument("--heads", type=int, default=6); ap.add_argument("--kv", type=int, default=2); ap.add_argument("--ffn", type=int, default=192)
ap.add_argument("--audio-dim", type=int, default=64); ap.add_argument("--audio-layers", type=int, default=2); ap.add_argument("--audio-heads", type=int, default=4)
ap.add_argument("--vocab", type=int, default=1500); ap.add_argument("--tie", action="store_true"); ap.add_argument("--bf16", action="store_true")
ap.add_argument("--steps", type=int, default=20); ap.add_argument("--lr", type=float, default=1e-2); ap.add_argument("--rank", type=int, default=4)
ap.add_argument("--rslora", action="store_true"); ap.add_argument("--alpha", type=float); ap.add_argument("--b-std", type=float, default=0.02); ap.add_argument("--lora-all", action="store_true")
ap.add_argument("--f16", action="store_true"); ap.add_argument("--single-file", action="store_true"); ap.add_argument("--config5", action="store_true"); ap.add_argument("--no-mel", action="store_true")
ap.add_argument("--check", action="store_true", help="also run the LoRA steps in float64 and print how far the losses are apart")
ap.add_argument("--corpus", help="text file for the tokenizer"); ap.add_argument("--new-tokens", type=int, default=24)
a = ap.parse_args(); stored = torch.bfloat16 if a.bf16 else torch.float16 if a.f16 else torch.float32
alpha = 2 * a.rank if a.alpha is None else int(a.alpha) if a.alpha == int(a.alpha) else a.alpha
os.makedirs(a.out, exist_ok=True); torch.manual_seed(a.seed); np.random.seed(a.seed); torch.set_num_threads(1)

# ---- tokenizer: byte-level BPE, Qwen's special tokens at the end of the vocabulary
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"]
tok = Tokenizer(models.BPE()); tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); tok.decoder = decoders.ByteLevel()
corpus = open(a.corpus, encoding="utf-8").read().splitlines() if a.corpus else []
tok.train_from_iterator(corpus + a.text + a.instruction + ["You are a helpful assistant.", "system user assistant"] * 3,
                        trainers.BpeTrainer(vocab_size=a.vocab - len(SPECIAL) - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
ids = {s: tok.token_to_id(s) for s in SPECIAL}
tok.save(f"{a.out}/tokenizer.json")
json.dump({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "model_max_length": 32768}, open(f"{a.out}/tokenizer_config.json", "w"), indent=1)
vocab = math.ceil((max(ids.values()) + 1) / 16) * 16

# ---- model
c = Qwen2_5OmniThinkerConfig()
hd = a.hidden // a.heads
t, au, v = c.text_config, c.audio_config, c.vision_config
t.hidden_size, t.num_hidden_layers, t.num_attention_heads, t.num_key_value_heads, t.intermediate_size, t.vocab_size = a.hidden, a.layers, a.heads, a.kv, a.ffn, vocab
t.layer_types = ["full_attention"] * a.layers; t.rope_parameters["mrope_section"] = [hd // 8, 3 * hd // 16, hd // 2 - hd // 8 - 3 * hd // 16]
t.tie_word_embeddings = a.tie; t.bos_token_id, t.eos_token_id, t.pad_token_id = None, ids["<|im_end|>"], ids["<|endoftext|>"]
au.encoder_layers, au.d_model, au.encoder_attention_heads, au.encoder_ffn_dim, au.output_dim = a.audio_layers, a.audio_dim, a.audio_heads, 2 * a.audio_dim, a.hidden
v.depth, v.hidden_size, v.num_heads, v.intermediate_size, v.out_hidden_size, v.fullatt_block_indexes = 1, 16, 2, 16, a.hidden, [0]
special_cfg = dict(audio_token_id=ids["<|AUDIO|>"], image_token_id=ids["<|IMAGE|>"], video_token_id=ids["<|VIDEO|>"], audio_start_token_id=ids["<|audio_bos|>"], audio_end_token_id=ids["<|audio_eos|>"],
                   vision_start_token_id=ids["<|vision_bos|>"], vision_end_token_id=ids["<|vision_eos|>"], position_id_per_seconds=25, seconds_per_chunk=2)
for k, x in special_cfg.items(): setattr(c, k, x)
c.tie_word_embeddings = a.tie
model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(c, attn_implementation="eager").float()
g = torch.Generator().manual_seed(a.seed)
for n, p in model.named_parameters():
    if p.dim() > 1: p.data = torch.randn(p.shape, generator=g) * (0.6 / math.sqrt(p.shape[-1] if p.dim() == 2 else p.shape[1] * p.shape[2]))
    elif n.endswith("bias"): p.data = torch.randn(p.shape, generator=g) * 0.05
    else: p.data = 1 + torch.randn(p.shape, generator=g) * 0.1
for p in model.parameters(): p.data = p.data.to(stored).float()
if a.tie: model.lm_head.weight = model.model.embed_tokens.weight
model.eval()
state = {f"thinker.{k}": x.to(stored).contiguous().clone() for k, x in model.state_dict().items() if not (a.tie and k == "lm_head.weight") and "positional_embedding" not in k and "inv_freq" not in k}
if a.single_file: save_file(state, f"{a.out}/model.safetensors", metadata={"format": "pt"})
else:
    names = sorted(state); half = len(names) // 2; wm = {}
    for i, part in enumerate((names[:half], names[half:])):
        fn = f"model-{i+1:05d}-of-00002.safetensors"; save_file({n: state[n] for n in part}, f"{a.out}/{fn}", metadata={"format": "pt"}); wm.update({n: fn for n in part})
    json.dump({"metadata": {"total_size": sum(x.numel() * x.element_size() for x in state.values())}, "weight_map": wm}, open(f"{a.out}/model.safetensors.index.json", "w"), indent=1)
th = {"model_type": "qwen2_5_omni_thinker", "tie_word_embeddings": a.tie, "audio_token_index": special_cfg["audio_token_id"], "image_token_index": special_cfg["image_token_id"], "video_token_index": special_cfg["video_token_id"],
      **{k: special_cfg[k] for k in ("audio_start_token_id", "audio_end_token_id", "vision_start_token_id", "vision_end_token_id", "position_id_per_seconds", "seconds_per_chunk")},
      "audio_config": {"model_type": "qwen2_5_omni_audio_encoder", "num_mel_bins": 128, "encoder_layers": a.audio_layers, "encoder_attention_heads": a.audio_heads, "encoder_ffn_dim": 2 * a.audio_dim, "d_model": a.audio_dim, "dropout": 0, "attention_dropout": 0, "activation_function": "gelu", "activation_dropout": 0, "scale_embedding": False, "max_source_positions": 1500, "n_window": au.n_window, "output_dim": a.hidden},
      "text_config": {"model_type": "qwen2_5_omni_text", "vocab_size": vocab, "hidden_size": a.hidden, "intermediate_size": a.ffn, "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.kv, "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": t.rms_norm_eps, "rope_theta": 1000000.0, "rope_scaling": {"mrope_section": t.rope_parameters["mrope_section"], "rope_type": "default", "type": "default"}, "use_sliding_window": False, "tie_word_embeddings": a.tie, "attention_dropout": 0.0},
      "vision_config": {"model_type": "qwen2_5_omni_vision_encoder", "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": a.hidden, "fullatt_block_indexes": [0]}}
if a.config5:
    full = Qwen2_5OmniConfig(thinker_config=c.to_dict(), enable_audio_output=False); full.architectures = ["Qwen2_5OmniForConditionalGeneration"]; full.dtype = stored
    full.eos_token_id, full.pad_token_id = ids["<|im_end|>"], ids["<|endoftext|>"]; full.save_pretrained(a.out)
else: json.dump({"architectures": ["Qwen2_5OmniForConditionalGeneration"], "model_type": "qwen2_5_omni", "enable_audio_output": False, "torch_dtype": str(stored).removeprefix("torch."), "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], "thinker_config": th}, open(f"{a.out}/config.json", "w"), indent=1)
json.dump({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 300, "n_samples": 4800000, "nb_max_frames": 30000, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True, "dither": 0.0}, open(f"{a.out}/preprocessor_config.json", "w"), indent=1)
json.dump({"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}, open(f"{a.out}/generation_config.json", "w"))
json.dump({"chat_template": "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"}, open(f"{a.out}/chat_template.json", "w"), ensure_ascii=False)

# ---- inputs: zero-padded to 300 s as the official processor does, valid frames kept
fx = WhisperFeatureExtractor(feature_size=128, chunk_length=300, hop_length=160, n_fft=400)
instr = a.instruction if len(a.instruction) == len(a.audio) else a.instruction * len(a.audio)
out, meta, feats, exs = {}, [], [], []
for i, (path, text, ins) in enumerate(zip(a.audio, a.text, instr)):
    wav, sr = sf.read(path, dtype="float32"); assert sr == 16000 and wav.ndim == 1, "16 kHz mono"
    f = fx(wav, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    n = int(f.attention_mask.sum()); mel = f.input_features[0, :, :n].contiguous()
    if not a.no_mel: out[f"mel.{i}"] = mel
    nt = ((n - 1) // 2 + 1 - 2) // 2 + 1
    prompt = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|audio_bos|>" + "<|AUDIO|>" * nt + f"<|audio_eos|>{ins}<|im_end|>\n<|im_start|>assistant\n"
    p = tok.encode(prompt, add_special_tokens=False).ids; y = tok.encode(text + "<|im_end|>", add_special_tokens=False).ids
    x = torch.tensor([p + y]); lab = torch.tensor([[-100] * len(p) + y])
    with torch.no_grad():
        af = model.get_audio_features(mel[None], torch.ones(1, n, dtype=torch.long), return_dict=True).last_hidden_state
        o = model(input_ids=x, attention_mask=torch.ones_like(x), input_features=mel[None], feature_attention_mask=torch.ones(1, n, dtype=torch.long), labels=lab, use_cache=False)
        gen = torch.tensor([p]); new = []
        for _ in range(a.new_tokens):
            lg = model(input_ids=gen, attention_mask=torch.ones_like(gen), input_features=mel[None], feature_attention_mask=torch.ones(1, n, dtype=torch.long), use_cache=False).logits[0, -1]
            top = lg.topk(2).values; k = int(lg.argmax()); new.append((k, float(top[0] - top[1])))
            if k == ids["<|im_end|>"]: break
            gen = torch.cat([gen, torch.tensor([[k]])], 1)
    lp = o.logits[0].log_softmax(-1); tgt = [float(lp[len(p) - 1 + j, y[j]]) for j in range(len(y))]
    out[f"audio.{i}"] = af.contiguous(); out[f"logits.{i}"] = o.logits[0].contiguous()
    exs.append((x, lab, mel, n))
    meta.append({"audio": os.path.basename(path), "seconds": len(wav) / 16000, "frames": n, "audio_tokens": nt, "instruction": ins, "target": text, "input_ids": x[0].tolist(), "target_len": len(y), "loss": float(o.loss), "target_logprobs": tgt, "greedy": [k for k, _ in new], "greedy_margin": [round(m, 5) for _, m in new]})
save_file({k: x.float().contiguous() for k, x in out.items()}, f"{a.out}/expected.safetensors")

# ---- LoRA run: every step sees all clips as one right-padded batch, mean over target tokens, AdamW, constant rate
RX = r"thinker\.model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
if a.lora_all: RX += r"|thinker\.audio_tower\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|fc1|fc2)|thinker\.audio_tower\.proj"
class Omni(torch.nn.Module):
    def __init__(s, m): super().__init__(); s.thinker = m; s.config = m.config
    def forward(s, **k): return s.thinker(**k)
    def prepare_inputs_for_generation(s, *x, **k): pass
pm = get_peft_model(Omni(model), LoraConfig(r=a.rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=RX, task_type=None, use_rslora=a.rslora, bias="none"))
gen = torch.Generator().manual_seed(a.seed + 7)
for n, p in pm.named_parameters():
    if p.requires_grad: p.data = torch.randn(p.shape, generator=gen) * (a.b_std if "lora_B" in n else 1 / math.sqrt(p.shape[1]))
def save_adapter(d):
    pm.save_pretrained(d); cfgp = f"{d}/adapter_config.json"; j = json.load(open(cfgp)); j["task_type"] = "CAUSAL_LM"; j["base_model_name_or_path"] = "."; json.dump(j, open(cfgp, "w"), indent=1)
    for f in os.listdir(d):
        if f.endswith(".md"): os.remove(f"{d}/{f}")
save_adapter(f"{a.out}/adapter_init")
M, F = max(e[0].shape[1] for e in exs), max(e[3] for e in exs); P = torch.nn.functional.pad
batch = dict(input_ids=torch.cat([P(e[0], (0, M - e[0].shape[1]), value=ids["<|endoftext|>"]) for e in exs]), attention_mask=torch.cat([P(torch.ones_like(e[0]), (0, M - e[0].shape[1])) for e in exs]),
             labels=torch.cat([P(e[1], (0, M - e[0].shape[1]), value=-100) for e in exs]), input_features=torch.stack([P(e[2], (0, F - e[3])) for e in exs]),
             feature_attention_mask=torch.stack([(torch.arange(F) < e[3]).long() for e in exs]))
with torch.no_grad(): adapted = [float(pm(input_ids=e[0], attention_mask=torch.ones_like(e[0]), input_features=e[2][None], feature_attention_mask=torch.ones(1, e[3], dtype=torch.long), labels=e[1], use_cache=False).loss) for e in exs]
def train(batch):
    tuned = [p for p in pm.parameters() if p.requires_grad]; losses, norms = [], []
    opt = torch.optim.AdamW(tuned, lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for s in range(a.steps):
        l = pm(**batch, use_cache=False).loss; opt.zero_grad(); l.backward()
        if s == 0 and a.lora_all:
            grads = {n.replace(".default.", "."): p.grad.float().clone() for n, p in pm.named_parameters() if p.requires_grad}
            assert all(x.abs().max() > 0 for x in grads.values()); save_file(grads, f"{a.out}/gradients.safetensors")
        norms.append(float(torch.nn.utils.clip_grad_norm_(tuned, 1.0))); opt.step(); losses.append(float(l.detach()))
    return losses, norms
if a.check:
    begin = {n: p.data.clone() for n, p in pm.named_parameters() if p.requires_grad}
    pm.double(); exact, _ = train({k: x.double() if x.is_floating_point() else x for k, x in batch.items()}); pm.float()
    for n, p in pm.named_parameters():
        if p.requires_grad: p.data = begin[n].clone(); p.grad = None
losses, norms = train(batch)
if a.check: print("losses against float64, largest relative difference:", max(abs(x - y) / y for x, y in zip(losses, exact)))
save_adapter(f"{a.out}/adapter_final")
with torch.no_grad(): final = [float(pm(input_ids=e[0], attention_mask=torch.ones_like(e[0]), input_features=e[2][None], feature_attention_mask=torch.ones(1, e[3], dtype=torch.long), labels=e[1], use_cache=False).loss) for e in exs]
json.dump({"examples": meta, "lora": {"rank": a.rank, "alpha": alpha, "rslora": a.rslora, "lr": a.lr, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "max_grad_norm": 1.0, "schedule": "constant", "batch": "all clips every step, mean over all target tokens", "loss_with_adapter_init": adapted, "step_losses": losses, "grad_norms": norms, "loss_with_adapter_final": final}}, open(f"{a.out}/expected.json", "w"), ensure_ascii=False, indent=1)
print(json.dumps({"losses": [round(x, 4) for x in losses], "frames": [e[3] for e in exs], "min_margin": min(min(m["greedy_margin"]) for m in meta)}))
