#!/usr/bin/env python3
"""Reference oracle: small random Qwen2, Qwen3 and Whisper checkpoints, two of them as GGUF too, and the results of transformers with them.

    pip install torch==2.15.0 transformers==5.17.0 tokenizers gguf==0.19.0
    python make_local_engines_fixture.py OUT_DIR

OUT_DIR gets qwen2/, qwen3/ and whisper/, which `save_pretrained` writes, and qwen2.gguf and qwen3.gguf, which the `gguf` package of llama.cpp
writes, with its names of tensors. Every matrix holds multiples of 1/256 below 1/2, which bfloat16 and float16 hold exactly, so all files of one model have
the same weights. expected.json has, for each chat model: the ids of a conversation under its chat template, the logits of the last position,
and the tokens that it chooses greedily; for Whisper: the ids of a prompt, the logits of some positions after a made-up log-mel, with the exact
GELU of transformers and with the approximation by tanh, and the tokens that it chooses greedily.
"""
import json, os, sys
import numpy as np, torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, WhisperConfig, WhisperForConditionalGeneration
import gguf

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.set_num_threads(1)

SPLITTING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
CONVERSATION = [{"role": "system", "content": "You summarise."}, {"role": "user", "content": "قال الوزير إن المشروع يبدأ اليوم."}]
NEW_TOKENS = 12
# Positions of Whisper's prompt whose logits are written.
POSITIONS = [3, 11]


def tokenizer(special, splits):
    """A byte-level BPE with a few merges."""
    tok = Tokenizer(models.BPE())
    if splits:
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITTING), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tok.normalizer = normalizers.NFC()
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    texts = [m["content"] for m in CONVERSATION] * 3
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=272, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return tok


def randomise(model, seed):
    """Weights that bfloat16 and float16 hold exactly; large enough that every part of the model changes the logits."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "encoder.embed_positions" in name:
            continue
        value = torch.randn(p.shape, generator=g) * (0.2 if p.dim() > 1 else 0.1)
        value = (value.clamp(-0.49, 0.49) * 256).round() / 256
        p.data = value + (1 if "norm" in name and name.endswith("weight") else 0)
    return model.eval()


def chat(name, config, kind, seed):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tok = tokenizer(special[:3], True)
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in special[3:]])
    ids = {s: tok.token_to_id(s) for s in special}
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    model = randomise(kind._from_config(config(tok.get_vocab_size()), attn_implementation="eager").float(), seed)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    folder = os.path.join(out, name)
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    # Read again: `to` has rounded the frequencies of the rotation, which no file holds.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = fast.apply_chat_template(CONVERSATION, add_generation_prompt=True, enable_thinking=False, tokenize=True)
    prompt = prompt["input_ids"] if not isinstance(prompt, list) else prompt
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
        chosen, sequence = [], list(prompt)
        for _ in range(NEW_TOKENS):
            after = model(torch.tensor([sequence])).logits[0, -1]
            token = int(after.argmax())
            chosen.append(token)
            sequence.append(token)
    expected = {"conversation": CONVERSATION, "ids": prompt, "logits": [round(float(x), 5) for x in logits], "greedy": chosen, "greedy_text": fast.decode(chosen, skip_special_tokens=True)}
    return model, tok, fast, expected


def write_gguf(path, arch, model, tok, fast):
    """The model as llama.cpp's converter writes it: keys and names of tensors are those of the `gguf` package."""
    config = model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if arch == gguf.MODEL_ARCH.QWEN3:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    spec = json.loads(tok.to_str())
    special = {t["id"]: t["special"] for t in spec["added_tokens"]}
    tokens = sorted(tok.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
    types = [gguf.TokenType.NORMAL if i not in special else gguf.TokenType.CONTROL if special[i] else gguf.TokenType.USER_DEFINED for _, i in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in spec["model"]["merges"]])
    writer.add_eos_token_id(fast.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = value.float().numpy()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), value.astype(np.float16) if value.ndim > 1 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def whisper(seed):
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|ar|>", "<|translate|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]
    tok = tokenizer(special, False)
    ids = {s: tok.token_to_id(s) for s in special}
    config = WhisperConfig(
        vocab_size=tok.get_vocab_size(), num_mel_bins=80, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=150, max_target_positions=48,
        decoder_start_token_id=ids["<|startoftranscript|>"], bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        suppress_tokens=[5, 7], begin_suppress_tokens=[220, ids["<|endoftext|>"]])
    model = randomise(WhisperForConditionalGeneration._from_config(config, attn_implementation="eager").float(), seed)
    model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = [5, 7], [220, ids["<|endoftext|>"]]
    folder = os.path.join(out, "whisper")
    model.to(torch.bfloat16).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    model.float()
    # Positions are sines in float32; bfloat16 rounded them.
    model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").float().eval()
    from transformers.models.whisper.modeling_whisper import sinusoids
    model.model.encoder.embed_positions.weight.data = sinusoids(150, 16)
    frames = 2 * config.max_source_positions
    mel = torch.tensor([[((i * 7 + j * 13) % 29 - 14) / 16 for j in range(frames)] for i in range(80)]).float()[None]
    prompt = [ids["<|startoftranscript|>"], ids["<|ar|>"], ids["<|transcribe|>"], ids["<|notimestamps|>"]] + tok.encode("قال الوزير", add_special_tokens=False).ids

    def results():
        with torch.no_grad():
            logits = model(input_features=mel, decoder_input_ids=torch.tensor([prompt])).logits[0]
            chosen, sequence = [], prompt[:4]
            for i in range(NEW_TOKENS):
                after = model(input_features=mel, decoder_input_ids=torch.tensor([sequence])).logits[0, -1]
                after[[5, 7] + ([220, ids["<|endoftext|>"]] if i == 0 else [])] = -float("inf")
                token = int(after.argmax())
                chosen.append(token)
                sequence.append(token)
                if token == ids["<|endoftext|>"]: break
        return [[round(float(x), 5) for x in logits[i]] for i in POSITIONS], chosen

    exact, greedy = results()
    F = torch.nn.functional
    whole = F.gelu
    F.gelu = lambda x, approximate="none": whole(x, approximate="tanh")
    for layer in list(model.model.encoder.layers) + list(model.model.decoder.layers):
        layer.activation_fn = torch.nn.GELU(approximate="tanh")
    tanh, greedy_tanh = results()
    return {"prompt": prompt, "positions": POSITIONS, "logits": exact, "greedy": greedy, "logits_tanh": tanh, "greedy_tanh": greedy_tanh}


expected = {}
model, tok, fast, expected["qwen2"] = chat("qwen2", lambda n: Qwen2Config(
    vocab_size=n, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, tie_word_embeddings=False), Qwen2ForCausalLM, 1)
write_gguf(os.path.join(out, "qwen2.gguf"), gguf.MODEL_ARCH.QWEN2, model, tok, fast)
model, tok, fast, expected["qwen3"] = chat("qwen3", lambda n: Qwen3Config(
    vocab_size=n, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, tie_word_embeddings=True), Qwen3ForCausalLM, 2)
write_gguf(os.path.join(out, "qwen3.gguf"), gguf.MODEL_ARCH.QWEN3, model, tok, fast)
expected["whisper"] = whisper(3)
json.dump(expected, open(os.path.join(out, "expected.json"), "w"), ensure_ascii=False, separators=(",", ":"))
