#!/usr/bin/env python3
"""Reference oracle for `maqam compose`: parts of random weights, and the results of transformers with the composed model.

    pip install torch==2.11.0 transformers==5.17.0 gguf numpy
    python make_compose_fixture.py parts OUT_DIR                  whisper/ (float16), qwen2/ (bfloat16, tied), qwen2.gguf (Q8_0 and F32)
    maqam compose --encoder OUT_DIR/whisper --decoder OUT_DIR/qwen2 --out TREE      and --decoder OUT_DIR/qwen2.gguf --out TREE2
    python make_compose_fixture.py expect OUT_DIR TREE TREE2

`expect` writes expected.safetensors (logits of the last four positions, for each tree) and expected.json (the prompt's ids as
Qwen2AudioProcessor of the tree writes them). Both trees are loaded by from_pretrained, and every weight must be found.
"""
import json, math, os, sys
import numpy as np, torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, AddedToken, normalizers, Regex
from transformers import PreTrainedTokenizerFast, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, Qwen2Config, Qwen2ForCausalLM, WhisperConfig, WhisperForConditionalGeneration

sys.path.insert(0, os.path.dirname(__file__))
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def clip(seed, samples):
    """The noise of make_qwen2_audio_fixture.py."""
    x, state = np.empty(samples, np.float32), seed
    for i in range(samples):
        state = (state * 1103515245 + 12345) % (1 << 31)
        x[i] = ((((state >> 15) - 32768) * (1 + (i // 8000) % 7)) >> 4) / 32768
    return x


def randomise(model, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    for n, p in model.named_parameters():
        if p.dim() > 1: p.data = torch.randn(p.shape, generator=g) * (0.8 / math.sqrt(p.shape[-1] if p.dim() == 2 else p.shape[1] * p.shape[2]))
        elif n.endswith("bias"): p.data = torch.randn(p.shape, generator=g) * 0.05
        else: p.data = 1 + torch.randn(p.shape, generator=g) * 0.1
        p.data = p.data.to(dtype)
    return model.to(dtype)


def parts(out):
    whisper = WhisperForConditionalGeneration(WhisperConfig(d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, num_mel_bins=80,
                                              vocab_size=64, max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1))
    randomise(whisper, 1, torch.float16).save_pretrained(f"{out}/whisper")
    open(f"{out}/whisper/README.md", "w").write("---\nlicense: mit\n---\n\nRandom weights.\n")

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tok = Tokenizer(models.BPE()); tok.normalizer = normalizers.NFC(); tok.decoder = decoders.ByteLevel()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.train_from_iterator(["You are a helpful assistant.", "system user assistant", "What is said?", "ماذا قيل؟ نعم"] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template="{{ messages }}")
    fast.save_pretrained(f"{out}/qwen2")
    end, pad = tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")
    # One free row after the tokenizer's, so two of the three audio tokens need new rows.
    config = Qwen2Config(vocab_size=tok.get_vocab_size() + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rope_theta=1e6, tie_word_embeddings=True, eos_token_id=end, pad_token_id=pad)
    qwen = randomise(Qwen2ForCausalLM(config), 2, torch.bfloat16); qwen.tie_weights()
    qwen.generation_config.eos_token_id, qwen.generation_config.pad_token_id = [end, pad], pad
    qwen.save_pretrained(f"{out}/qwen2")
    open(f"{out}/qwen2/README.md", "w").write("---\nlicense: apache-2.0\n---\n\nRandom weights.\n")

    import gguf
    w = gguf.GGUFWriter(f"{out}/qwen2.gguf", "qwen2")
    w.add_license("apache-2.0"); w.add_block_count(2); w.add_context_length(512); w.add_embedding_length(32); w.add_feed_forward_length(64); w.add_head_count(4); w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-6); w.add_rope_freq_base(1e6); w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("qwen2")
    by_id = {i: t for t, i in tok.get_vocab().items()}; rows = config.vocab_size
    w.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(rows)])
    w.add_token_types([gguf.TokenType.CONTROL if by_id.get(i) in special else gguf.TokenType.NORMAL if i in by_id else gguf.TokenType.UNUSED for i in range(rows)])
    w.add_token_merges([" ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]]); w.add_eos_token_id(end); w.add_pad_token_id(pad)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    of_layer = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, x in qwen.state_dict().items():
        if name == "lm_head.weight": continue
        if name in names: new = names[name]
        else: _, _, i, rest = name.split(".", 3); stem, half = rest.rsplit(".", 1); new = f"blk.{i}.{of_layer[stem]}.{half}"
        x = x.float().numpy()
        if x.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(new, gguf.quants.quantize(x, kind), raw_dtype=kind)
        else: w.add_tensor(new, x)
        if new == "token_embd.weight": w.add_tensor("output.weight", x)  # the same matrix once more, finer
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def expect(out, trees):
    found, ids = {}, None
    for name, tree in zip(("folder", "gguf"), trees):
        model, info = Qwen2AudioForConditionalGeneration.from_pretrained(tree, dtype=torch.float32, output_loading_info=True)
        left = {k: v for k, v in info.items() if v}; assert not left, left
        assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight), "the head is not the table"
        processor = Qwen2AudioProcessor.from_pretrained(tree)
        text = processor.apply_chat_template([{"role": "user", "content": [{"type": "audio", "audio": "x"}, {"type": "text", "text": "What is said?"}]}], add_generation_prompt=True, tokenize=False)
        x = processor(text=text, audio=[clip(5, 20000)], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad(): logits = model.eval()(**x).logits[0, -4:]
        heard = model.model.audio_tower(x.input_features).last_hidden_state; rms = lambda t: float(t.float().pow(2).mean().sqrt())
        print(name, "rms of embeddings", rms(model.model.language_model.embed_tokens.weight), "and of the projector's output", rms(model.model.multi_modal_projector(heard)))
        found[f"logits.{name}"] = logits.contiguous(); assert ids in (None, x.input_ids[0].tolist()); ids = x.input_ids[0].tolist()
    save_file(found, f"{out}/expected.safetensors"); json.dump({"clip": [5, 20000], "instruction": "What is said?", "input_ids": ids}, open(f"{out}/expected.json", "w"))


if sys.argv[1] == "parts": os.makedirs(sys.argv[2], exist_ok=True); parts(sys.argv[2])
else: expect(sys.argv[2], sys.argv[3:5])
