"""Makes the files of maqam-tiny that are not weights: configuration and tokenizer, in Qwen2.5-Omni's layout at a small size.

    python data/models/maqam-tiny/make_shape.py    # needs tokenizers 0.22

The tokenizer is a byte-level BPE trained on the sample's words and from the instructions in prompts/. Weights: curricula/tiny-base.yaml.
"""

import importlib.util
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VOCABULARY = 1500
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|IMAGE|>", "<|VIDEO|>",
           "<|vision_bos|>", "<|vision_eos|>"]
ENCODER = {"d_model": 192, "encoder_layers": 4, "encoder_attention_heads": 3, "encoder_ffn_dim": 768}
DECODER = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 512}
# The template of the official processor for text and audio.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' or 'audio' in content %}<|audio_bos|><|AUDIO|><|audio_eos|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts() -> list[str]:
    """Training texts of the tokenizer: every word of the sample often, at the start of a text and inside it; every prompt once."""
    spec = importlib.util.spec_from_file_location("sample", ROOT / "data/sample/make.py")
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    words = [sample.plain(word) for word in sample.vocabulary()]
    prompts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "prompts").glob("*.yaml"))]
    return [f"{word} {word} {word}" for word in words for _ in range(200)] + prompts * 20


def write(name: str, value: dict) -> None:
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
tokenizer.train_from_iterator(texts(), trainer)
tokenizer.add_special_tokens(SPECIAL)
tokenizer.save(str(HERE / "tokenizer.json"))
ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
vocab_size = (tokenizer.get_vocab_size() + 31) // 32 * 32
half = DECODER["hidden_size"] // DECODER["num_attention_heads"] // 2
rope = {"mrope_section": [half // 4, half * 3 // 8, half * 3 // 8], "rope_type": "default", "type": "default"}
assert sum(rope["mrope_section"]) == half
write("config.json", {
    "architectures": ["Qwen2_5OmniForConditionalGeneration"], "model_type": "qwen2_5_omni", "enable_audio_output": False, "torch_dtype": "bfloat16",
    "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    "thinker_config": {
        "model_type": "qwen2_5_omni_thinker", "tie_word_embeddings": True,
        "audio_token_index": ids["<|AUDIO|>"], "image_token_index": ids["<|IMAGE|>"], "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"], "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"], "vision_end_token_id": ids["<|vision_eos|>"],
        "position_id_per_seconds": 25, "seconds_per_chunk": 2,
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder", "num_mel_bins": 128, **ENCODER, "dropout": 0, "attention_dropout": 0,
            "activation_function": "gelu", "activation_dropout": 0, "scale_embedding": False, "max_source_positions": 1500, "n_window": 100,
            "output_dim": DECODER["hidden_size"],
        },
        "text_config": {
            "model_type": "qwen2_5_omni_text", "vocab_size": vocab_size, **DECODER, "hidden_act": "silu", "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "rope_scaling": rope, "use_sliding_window": False, "tie_word_embeddings": True,
            "attention_dropout": 0.0,
        },
        "vision_config": {"model_type": "qwen2_5_omni_vision_encoder", "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16,
                          "out_hidden_size": DECODER["hidden_size"], "fullatt_block_indexes": [0]},
    },
})
write("generation_config.json", {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]})
write("tokenizer_config.json", {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
write("preprocessor_config.json", {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 300,
    "n_samples": 4800000, "nb_max_frames": 30000, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True, "dither": 0.0,
})
write("chat_template.json", {"chat_template": TEMPLATE})
