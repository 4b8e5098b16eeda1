"""Shared by the oracles: a row rendered as Qwen2.5-Omni's prompt, its audio as features, the model with or without a PEFT adapter.

A row has `messages` (ms-swift: role, content with one <audio> mark per clip, optionally `loss: false` on an assistant turn) and `audios`.
Text between special tokens is tokenised as one piece; an assistant's content by itself, then <|im_end|>. Both are targets, unless
the turn's loss is false; the newline after is not. Special tokens written in the data are plain text. Without a system message the template's default.
"""
import json, os
import torch, soundfile as sf
from tokenizers import Tokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

DEFAULT_SYSTEM = "You are a helpful assistant."

class Chat:
    def __init__(self, folder):
        spec = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8")); self.special = {t["content"]: t["id"] for t in spec["added_tokens"]}
        self.plain = Tokenizer.from_str(json.dumps(spec | {"added_tokens": []})); self.tok = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.end = self.special["<|im_end|>"]

    def text(self, s): return self.plain.encode(s, add_special_tokens=False).ids if s else []

    def render(self, messages, audio_tokens, reply=False):
        """Ids and target mask; with `reply` the prompt ends where the next assistant turn would begin."""
        ids, mask, pending, counts = [], [], "", iter(audio_tokens)
        def flush():
            nonlocal pending
            new = self.text(pending); pending = ""; ids.extend(new); mask.extend([False] * len(new))
        def mark(name, n=1, target=False): flush(); ids.extend([self.special[name]] * n); mark_mask(n, target)
        def mark_mask(n, target): mask.extend([target] * n)
        if messages[0]["role"] != "system": messages = [{"role": "system", "content": DEFAULT_SYSTEM}, *messages]
        for m in messages:
            mark("<|im_start|>"); pending += m["role"] + "\n"
            if m["role"] == "assistant":
                flush(); target = m.get("loss", True); new = self.text(m["content"]); ids.extend(new); mark_mask(len(new), target); mark("<|im_end|>", target=target)
            else:
                first, *rest = m["content"].split("<audio>"); pending += first
                for piece in rest:
                    mark("<|audio_bos|>"); mark("<|AUDIO|>", next(counts)); mark("<|audio_eos|>"); pending += piece
                mark("<|im_end|>")
            pending += "\n"
        assert next(counts, None) is None, "more clips than <audio> marks"
        if reply: mark("<|im_start|>"); pending += "assistant\n"; flush()
        return ids, mask       # the newline after the last turn is left out: nothing follows it

def read_audio(path, start=None, end=None):
    wav, rate = sf.read(path, dtype="float32", always_2d=True); wav = wav.mean(1)
    if start is not None or end is not None: wav = wav[round((start or 0) * rate): None if end is None else round(end * rate)]
    if rate != 16000: import librosa; wav = librosa.resample(wav, orig_sr=rate, target_sr=16000)
    return wav

_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
def mel(wav):
    """[128, frames]: the valid frames of the clip padded to 300 s, as the official processor computes them. Longer clips are refused there in silence, here aloud."""
    assert len(wav) <= 300 * 16000, "over 300 s"
    f = _extractor(wav, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    return f.input_features[0, :, :int(f.attention_mask.sum())].contiguous()
def audio_tokens(frames): return ((frames - 1) // 2 + 1 - 2) // 2 + 1

class Omni(torch.nn.Module):
    """The full model's module paths (thinker.*) around the thinker alone."""
    def __init__(self, thinker): super().__init__(); self.thinker = thinker; self.config = thinker.config
    def forward(self, **k): return self.thinker(**k)
    def prepare_inputs_for_generation(self, *x, **k): pass

def load(folder, adapter=None, trainable=False):
    """The thinker in float32, with an adapter in either key form (full model: ...thinker.model..., thinker alone: ...model...). A tensor that finds no place is an error."""
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if adapter is None: return Omni(thinker)
    from peft import PeftModel
    from safetensors import safe_open
    with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as f: stored = {k: f.get_tensor(k) for k in f.keys()}
    whole = any(k.startswith("base_model.model.thinker.") for k in stored)
    m = PeftModel.from_pretrained(Omni(thinker) if whole else thinker, adapter, is_trainable=trainable).eval()
    placed = {k.replace(".default.", "."): p for k, p in m.named_parameters() if "lora_" in k}
    assert placed.keys() == stored.keys(), f"adapter and model differ: {sorted(placed.keys() ^ stored.keys())[:4]}"
    assert all(torch.equal(p.detach(), stored[k].to(p.dtype)) for k, p in placed.items())
    return m

def batch(items, pad):
    """Right-padded batch of (ids, target mask, [mel, ...])."""
    pad_to = lambda x, n, v: torch.nn.functional.pad(x, (0, n - x.shape[-1]), value=v)
    L = max(len(i) for i, _, _ in items); ids = [torch.tensor(i) for i, _, _ in items]; mels = [x for _, _, ms in items for x in ms]
    out = dict(input_ids=torch.stack([pad_to(i, L, pad) for i in ids]), attention_mask=torch.stack([pad_to(torch.ones_like(i), L, 0) for i in ids]),
               labels=torch.stack([pad_to(i.masked_fill(~torch.tensor(t), -100), L, -100) for i, (_, t, _) in zip(ids, items)]), use_cache=False)
    if mels:
        F = max(x.shape[1] for x in mels)
        out |= dict(input_features=torch.stack([pad_to(x, F, 0.0) for x in mels]), feature_attention_mask=torch.stack([(torch.arange(F) < x.shape[1]).long() for x in mels]))
    return out
