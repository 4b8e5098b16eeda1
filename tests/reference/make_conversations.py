#!/usr/bin/env python3
"""Reference oracle: conversations of other shapes than one clip and one answer, on the weights of a golden made by make_qwen_omni_fixture.py.

    python make_conversations.py MODEL_DIR AUDIO_DIR OUT.json

Rows: text alone; two clips in one user message with text between; several turns; one of several answers left out of the loss; a system
message of its own; special tokens written in the data (plain text, see chat.py). Each row of OUT.json:
  id, messages, audios (file names in AUDIO_DIR), input_ids, target_mask (0/1 per id), loss (mean over target tokens), target_logprobs in order,
  prompt_ids: the row after dropping the final assistant turn, up to "<|im_start|>assistant\\n"; greedy: 12 tokens from there (ends early only
  at <|im_end|>), greedy_margin: best minus second-best logit of each.
Computed by transformers in float32, one row at a time, eager attention, no cache.
"""
import argparse, json, os, torch
from chat import Chat, audio_tokens, batch, load, mel, read_audio
ap = argparse.ArgumentParser(); ap.add_argument("model"); ap.add_argument("audio"); ap.add_argument("out"); ap.add_argument("--new-tokens", type=int, default=12); a = ap.parse_args()
torch.set_num_threads(1); chat, model = Chat(a.model), load(a.model)
say = lambda role, content, **k: {"role": role, "content": content, **k}
ROWS = [
    {"id": "text-only", "messages": [say("user", "What is the capital of Egypt? Answer in Arabic."), say("assistant", "القاهرة")], "audios": []},
    {"id": "two-clips", "messages": [say("user", "First: <audio>\nSecond: <audio> Are the two speakers the same?"), say("assistant", "no, they are not")], "audios": ["a3.wav", "odd.wav"]},
    {"id": "two-answers", "messages": [say("user", "<audio>Transcribe the speech."), say("assistant", "مرحبا بكم"), say("user", "Now summarize it in one word."), say("assistant", "ترحيب")], "audios": ["a1.wav"]},
    {"id": "three-turns", "messages": [say("user", "<audio>Which emotion is spoken?"), say("assistant", "happy"), say("user", "And in this clip? <audio>"), say("assistant", "sad", loss=False), say("user", "Are you sure?"), say("assistant", "yes, I am")], "audios": ["a3.wav", "odd.wav"]},
    {"id": "system", "messages": [say("system", "You are a speech recognition model."), say("user", "Transcribe the speech.<audio>"), say("assistant", "افتتاح ثلاثة")], "audios": ["odd.wav"]},
    {"id": "markup-in-data", "messages": [say("user", "What does <|im_end|> mean, and <|AUDIO|>?\n<|im_start|>system"), say("assistant", "It ends a turn: <|im_end|>.")], "audios": []},
]
done = []
for r in ROWS:
    mels = [mel(read_audio(os.path.join(a.audio, p))) for p in r["audios"]]; counts = [audio_tokens(m.shape[1]) for m in mels]
    ids, mask = chat.render(r["messages"], counts)
    if "<|" not in "".join(m["content"] for m in r["messages"]):    # without markup in the data, the pieces equal the tokens of the whole prompt
        first = next(i for i, t in enumerate(mask) if t); prompt = chat.tok.decode(ids[:first], skip_special_tokens=False)
        assert chat.tok.encode(prompt, add_special_tokens=False).ids == ids[:first]
    with torch.no_grad(): o = model(**batch([(ids, mask, mels)], 0))
    lp = o.logits[0].log_softmax(-1); logprobs = [float(lp[i - 1, ids[i]]) for i in range(1, len(ids)) if mask[i]]
    assert abs(float(o.loss) + sum(logprobs) / len(logprobs)) < 1e-5
    prompt, _ = chat.render(r["messages"][:-1], counts, reply=True); assert ids[:len(prompt)] == prompt
    greedy, margins, so_far = [], [], list(prompt)
    for _ in range(a.new_tokens):
        b = batch([(so_far, [False] * len(so_far), mels)], 0); b.pop("labels")
        with torch.no_grad(): best = model(**b).logits[0, -1].topk(2)
        token = int(best.indices[0]); greedy.append(token); margins.append(round(float(best.values[0] - best.values[1]), 5)); so_far.append(token)
        if token == chat.end: break
    done.append(r | {"input_ids": ids, "target_mask": [int(t) for t in mask], "loss": float(o.loss), "target_logprobs": logprobs, "prompt_ids": prompt, "greedy": greedy, "greedy_margin": margins})
    print(r["id"], len(ids), sum(mask), round(float(o.loss), 4), greedy, min(margins))
def lists_on_one_line(o): return "[\n" + ",\n".join(" {" + ",\n  ".join(f"{json.dumps(k)}: {json.dumps(x, ensure_ascii=False)}" for k, x in r.items()) + "}" for r in o) + "\n]\n"
open(a.out, "w", encoding="utf-8").write(lists_on_one_line(done))
