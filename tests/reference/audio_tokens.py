#!/usr/bin/env python3
"""Oracle for trained embeddings of single tokens: PEFT's `trainable_token_indices`, on the checkpoints of make_qwen2_audio_fixture.py.

    pip install torch==2.11.0 transformers==5.17.0 peft==0.21.2 safetensors
    python tests/reference/audio_tokens.py make tests/fixtures tests/fixtures/audio_tokens
    python tests/reference/audio_tokens.py check tests/fixtures/qwen2_audio ADAPTER EXPECTED.json    an adapter that maqam wrote

`make` writes for each checkpoint (a head of its own, a tied head) into OUT/NAME:
  adapter_init/, adapter_final/   LoRA on the projector and on q_proj and v_proj of the decoder, with the embeddings of the tokens that
                                  open and close a clip, before and after the training
  tokens_alone/                   an adapter of the type TRAINABLE_TOKENS, whose embeddings are those of adapter_final
  expected.json                   ids of the tokens; losses and gradient norms of the steps; losses of single clips with each adapter
Every step sees the examples whose clips are not longer than LONGEST samples, mean over target tokens, AdamW of a constant rate; weight decay on LoRA alone; gradient norm clipped at 1.
Class Qwen2AudioForConditionalGeneration ties nothing, so a tied head is tied here, and PEFT is told so.
"""
import json, math, os, shutil, sys
import numpy as np, torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from transformers import AutoTokenizer, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

torch.set_num_threads(1)
NAMES = ("qwen2_audio", "qwen2_audio_tied")
LONGEST = 5 * 16000
STEPS, RATE, RANK = 6, 5e-3, 4
MARKS = ("<|audio_bos|>", "<|audio_eos|>")
TARGETS = r"model\.multi_modal_projector\.linear|model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"


def clip(seed, samples):
    """The noise of make_qwen2_audio_fixture.py."""
    x, state = np.empty(samples, np.float32), seed
    for i in range(samples):
        state = (state * 1103515245 + 12345) % (1 << 31)
        x[i] = ((((state >> 15) - 32768) * (1 + (i // 8000) % 7)) >> 4) / 32768
    return x


def load(folder):
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if model.config.tie_word_embeddings:
        table = model.get_input_embeddings().weight
        assert torch.equal(model.lm_head.weight, table)
        model.lm_head.weight = table
        model._tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    return model


def examples(folder):
    """Numbers of the examples that are trained on; their inputs, and the number of target tokens of each."""
    processor, found = Qwen2AudioProcessor.from_pretrained(folder), []
    rows = json.load(open(f"{folder}/expected.json"))["examples"]
    chosen = [i for i, row in enumerate(rows) if max(samples for _, samples in row["clips"]) <= LONGEST]
    for i in chosen:
        waves = [clip(*c) for c in rows[i]["clips"]]
        f = processor.feature_extractor(waves, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
        x = torch.tensor([rows[i]["input_ids"]])
        found.append((dict(input_ids=x, attention_mask=torch.ones_like(x), input_features=f.input_features, feature_attention_mask=f.attention_mask, use_cache=False), rows[i]["target_len"]))
    return chosen, found


def loss_of(model, inputs, n):
    """Sum over target tokens, nats."""
    logits, x = model(**inputs).logits[0], inputs["input_ids"][0]
    return torch.nn.functional.cross_entropy(logits[len(x) - n - 1 : -1], x[-n:], reduction="sum")


def single(model, found):
    with torch.no_grad(): return [float(loss_of(model, inputs, n) / n) for inputs, n in found]


def delta(model):
    return next(p for name, p in model.named_parameters() if name.endswith("trainable_tokens_delta.default"))


def save(model, folder):
    model.save_pretrained(folder)
    if os.path.exists(f"{folder}/README.md"): os.remove(f"{folder}/README.md")
    path = f"{folder}/adapter_config.json"; config = json.load(open(path)); config["base_model_name_or_path"] = "base"
    json.dump(config, open(path, "w"), indent=1)


def make(fixtures, out):
    for name in NAMES:
        folder, to = f"{fixtures}/{name}", f"{out}/{name}"
        shutil.rmtree(to, ignore_errors=True); os.makedirs(to)
        chosen, found = examples(folder); total = sum(n for _, n in found)
        tokenizer = AutoTokenizer.from_pretrained(folder); ids = [tokenizer.convert_tokens_to_ids(mark) for mark in MARKS]
        model = get_peft_model(load(folder), LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, trainable_token_indices=ids, task_type="CAUSAL_LM"))
        g = torch.Generator().manual_seed(3)
        for n, p in model.named_parameters():
            if "lora_A" in n: p.data = torch.randn(p.shape, generator=g) / math.sqrt(p.shape[1])
            if "lora_B" in n: p.data = torch.randn(p.shape, generator=g) * 0.05
        save(model, f"{to}/adapter_init")
        rows, start = delta(model), delta(model).detach().clone()
        lora = [p for n, p in model.named_parameters() if "lora_" in n]
        assert sum(p.requires_grad for p in model.parameters()) == len(lora) + 1
        opt = torch.optim.AdamW([{"params": lora, "weight_decay": 0.01}, {"params": [rows], "weight_decay": 0.0}], lr=RATE, betas=(0.9, 0.999), eps=1e-8)
        before, losses, norms, gradient = single(model, found), [], [], None
        for step in range(STEPS):
            opt.zero_grad(); sum_ = 0.0
            for inputs, n in found:
                loss = loss_of(model, inputs, n) / total; loss.backward(); sum_ += loss.item()
            if step == 0: gradient = rows.grad.flatten().tolist()
            losses.append(sum_); norms.append(float(torch.nn.utils.clip_grad_norm_([*lora, rows], 1.0))); opt.step()
        save(model, f"{to}/adapter_final")
        after, final = single(model, found), rows.detach().clone()

        alone = get_peft_model(load(folder), TrainableTokensConfig(token_indices=ids, task_type="CAUSAL_LM"))
        delta(alone).data = final.clone(); save(alone, f"{to}/tokens_alone")
        json.dump({"tokens": ids, "train": chosen, "lr": RATE, "step_losses": losses, "grad_norms": norms, "gradient": gradient,
                   "loss_with_adapter_init": before, "loss_with_adapter_final": after, "loss_with_tokens_alone": single(alone, found), "loss_of_base": single(load(folder), found)},
                  open(f"{to}/expected.json", "w"), indent=1)
        print(name, ids, losses, "rows moved by", float((final - start).abs().max()))


def check(folder, adapter, expected):
    """PEFT loads the adapter, every tensor of it, and computes the expected losses."""
    import safetensors.torch
    model = PeftModel.from_pretrained(load(folder), adapter).eval()
    stored = safetensors.torch.load_file(f"{adapter}/adapter_model.safetensors")
    own = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n or "trainable_tokens_delta" in n}
    assert own.keys() == stored.keys(), own.keys() ^ stored.keys()
    assert all(torch.equal(own[n], stored[n]) for n in own)
    want, got = json.load(open(expected)), single(model, examples(folder)[1])
    assert np.allclose(want, got, rtol=1e-4), (want, got)
    print("equal", got)


if sys.argv[1] == "make": make(*sys.argv[2:4])
else: check(*sys.argv[2:5])
