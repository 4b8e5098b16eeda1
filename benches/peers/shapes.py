"""Sizes of the thinkers that the peers on one GPU are measured on: those of `maqam bench train --shape` (crates/engine/src/models/qwen_omni/shapes.rs)."""

OMNI_TOWER = dict(encoder_layers=32, d_model=1280, encoder_attention_heads=20, encoder_ffn_dim=5120)
SHAPES = {
    "tiny": (
        dict(vocab_size=2048, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2),
        dict(encoder_layers=2, d_model=128, encoder_attention_heads=4, encoder_ffn_dim=512),
    ),
    "3b": (
        dict(vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2),
        OMNI_TOWER,
    ),
    "7b": (
        dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4),
        OMNI_TOWER,
    ),
}
