"""Files of every foreign format that maqam reads, written by their own libraries.

    python tests/reference/make_formats.py crates/data/tests/fixtures/formats

Ran with datasets 5.2.0, lhotse 1.33.0, webdataset 1.0.2, pyarrow 26.0.1, soundfile 0.14.0. Formats without a library that writes them (ms-swift,
LLaMA-Factory, NeMo, SLAM-LLM, Qwen3-ASR, Common Voice) are written by their documentation. Each has the same four utterances.
`expected.jsonl` has the expected rows: id, text, speaker, language, and the used part of a file of `audio`.
"""

import csv
import json
import os
import shutil
import sys
import tarfile

import numpy as np
import soundfile as sf

RATE = 8000


def clip(seconds, pitch):
    """A tone that no other clip has."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def write(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def lines(path, rows):
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


UTTERANCES = [
    # id, file, start, seconds, text, speaker, language, emotion
    ("u1", "audio/a.wav", 0.0, None, "صباح الخير", "s1", "ar", "happy"),
    ("u2", "audio/b.flac", 0.0, None, 'he said "no", twice', "s2", "en", "sad"),
    ("u3", "audio/c.wav", 0.125, 0.25, "one", "s1", "en", "sad"),
    ("u4", "audio/c.wav", 0.375, 0.125, "two; three", "s1", "en", "happy"),
]
WHOLE = UTTERANCES[:2]
LENGTHS = {"audio/a.wav": 0.25, "audio/b.flac": 0.3, "audio/c.wav": 0.5}


def seconds(row):
    return row[3] or LENGTHS[row[1]]


def audio():
    os.makedirs("audio")
    for (path, length), pitch in zip(LENGTHS.items(), (300, 500, 700)):
        sf.write(path, clip(length, pitch), RATE, subtype="PCM_16")
    lines("expected.jsonl", [{"id": r[0], "file": r[1], "start_s": r[2], "seconds": seconds(r), "text": r[4], "speaker": r[5],
                              "language": r[6]} for r in UTTERANCES])


def hugging_face():
    from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets.table import embed_table_storage

    features = Features({"id": Value("string"), "audio": Audio(), "sentence": Value("string"), "speaker": Value("string"),
                         "language": Value("string"), "emotion": ClassLabel(names=["sad", "happy"]), "age": Value("int64")})
    # Bytes are cast to audio, because to encode paths as audio takes torchcodec.
    stored = Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}})
    files = [{"bytes": open(r[1], "rb").read(), "path": os.path.basename(r[1])} for r in WHOLE]
    rows = {"id": [r[0] for r in WHOLE], "audio": files, "sentence": [r[4] for r in WHOLE],
            "speaker": [r[5] for r in WHOLE], "language": [r[6] for r in WHOLE], "emotion": [r[7] for r in WHOLE], "age": [30, None]}
    dataset = Dataset.from_dict(rows, features=stored).cast(features)
    # As `push_to_hub` writes every shard.
    embedded = dataset.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    os.makedirs("huggingface/data")
    for i in range(2):
        embedded.shard(2, i, contiguous=True).to_parquet(f"huggingface/data/train-{i:05}-of-00002.parquet")
    dataset.save_to_disk("saved", num_shards=2)
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk("saved_dict")
    for folder in ("saved_dict/train", "saved_dict/test"):
        shutil.rmtree(folder)


def conversations():
    def messages(row, role, content, user, assistant):
        return [{role: user, content: "<audio>What is said?"}, {role: assistant, content: row[4]}]

    lines("ms_swift.jsonl", [{"id": r[0], "messages": messages(r, "role", "content", "user", "assistant"), "audios": [r[1]],
                              "channel": "asr"} for r in WHOLE])
    lines("ms_swift_pairs.jsonl", [{"id": r[0], "query": "<audio>What is said?", "response": r[4], "audios": [r[1]]} for r in WHOLE])
    rows = [{"id": r[0], "conversations": messages(r, "from", "value", "human", "gpt"), "system": "Be brief.", "audios": ["../" + r[1]]}
            for r in WHOLE]
    write("llama_factory/asr.json", json.dumps(rows, ensure_ascii=False, indent=2))
    write("llama_factory/dataset_info.json", json.dumps({"asr": {"file_name": "asr.json", "formatting": "sharegpt",
          "columns": {"messages": "conversations", "system": "system", "audios": "audios"}}}, indent=2))
    rows = [{"id": r[0], "dialog": messages(r, "who", "what", "u", "a"), "sounds": ["../" + r[1]]} for r in WHOLE]
    write("llama_factory_tags/asr.json", json.dumps(rows, ensure_ascii=False))
    write("llama_factory_tags/dataset_info.json", json.dumps({"asr": {"file_name": "asr.json", "formatting": "sharegpt",
          "columns": {"messages": "dialog", "audios": "sounds"},
          "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "u", "assistant_tag": "a"}}}))
    lines("nemo_conversation.jsonl", [{"id": r[0], "conversations": [
        {"value": "What is said?", "from": "User", "type": "text"},
        {"value": r[1], "from": "User", "duration": seconds(r), "type": "audio"},
        {"value": r[4], "from": "Assistant", "type": "text"}]} for r in WHOLE])


def nemo():
    rows = []
    for r in UTTERANCES:
        row = {"id": r[0], "audio_filepath": r[1], "duration": seconds(r), "text": r[4], "lang": r[6], "speaker": r[5]}
        if r[3]:
            row["offset"] = r[2]
        rows.append(row)
    lines("nemo.json", rows)
    # As scripts/speech_recognition/convert_to_tarred_audio_dataset.py names members, shards and rows.
    os.makedirs("nemo_tarred/sharded_manifests")
    tarred = []
    for shard in range(2):
        with tarfile.open(f"nemo_tarred/audio_{shard}.tar", "w") as tar:
            names = set()
            for row in rows[2 * shard:2 * shard + 2]:
                name = row["audio_filepath"].replace("/", "_")
                if name not in names:
                    tar.add(row["audio_filepath"], arcname=name, filter=lambda info: stable(info))
                entry = {**row, "audio_filepath": name, "shard_id": shard}
                if name in names:
                    stem, ending = os.path.splitext(name)
                    entry["audio_filepath"] = f"{stem}-sub1{ending}"
                names.add(name)
                tarred.append(entry)
        lines(f"nemo_tarred/sharded_manifests/manifest_{shard}.json", [row for row in tarred if row["shard_id"] == shard])
    lines("nemo_tarred/tarred_audio_manifest.json", tarred)


def stable(info):
    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
    return info


def lhotse():
    from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.kaldi import export_to_kaldi

    recordings = RecordingSet.from_recordings(Recording.from_file(path, recording_id=os.path.basename(path).split(".")[0])
                                              for path in LENGTHS)
    supervisions = SupervisionSet.from_segments(
        SupervisionSegment(id=r[0], recording_id=os.path.basename(r[1]).split(".")[0], start=r[2], duration=seconds(r), text=r[4],
                           speaker=r[5], language=r[6], custom={"emotion": r[7]}) for r in UTTERANCES)
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions).trim_to_supervisions(keep_overlapping=False)
    cuts = CutSet.from_cuts(cut.with_id(cut.supervisions[0].id) for cut in cuts).to_eager()
    os.makedirs("lhotse")
    cuts.to_file("lhotse/cuts.jsonl.gz")
    cuts.to_file("lhotse/cuts.jsonl")
    os.makedirs("lhotse_shar")
    cuts.to_shar("lhotse_shar", fields={"recording": "wav"}, shard_size=3)
    export_to_kaldi(recordings, supervisions, "kaldi")
    # Kaldi's paths start where its recipes run, which is here.
    scp = open("kaldi/wav.scp").read()
    write("kaldi/wav.scp", scp)


def webdataset():
    import webdataset as wds

    os.makedirs("webdataset")
    with wds.ShardWriter("webdataset/%06d.tar", maxcount=1, mtime=0, verbose=0) as sink:
        for r in WHOLE:
            ending = r[1].rsplit(".")[-1]
            sink.write({"__key__": r[0], ending: open(r[1], "rb").read(), "txt": r[4],
                        "json": {"speaker": r[5], "language": r[6]}})


def tables():
    os.makedirs("common_voice/clips")
    head = ["client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender", "accents",
            "variant", "locale", "segment"]
    with open("common_voice/train.tsv", "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        out.writerow(head)
        for r in WHOLE:
            name = os.path.basename(r[1])
            shutil.copy(r[1], f"common_voice/clips/{name}")
            out.writerow([r[5], name, "x", r[4], "", 2, 0, "twenties", "", "", "", r[6], ""])
    rows = [{"id": r[0], "audio": r[1], "text": r[4], "speaker": r[5], "language": r[6],
             "start_s": r[2] if r[3] else "", "end_s": r[2] + r[3] if r[3] else ""} for r in UTTERANCES]
    for name, dialect in (("table.csv", "excel"), ("table.tsv", "excel-tab")):
        with open(name, "w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]), dialect=dialect)
            out.writeheader()
            out.writerows(rows)
    with open("foreign.csv", "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "sentence", "client"])
        out.writerows([r[1], r[4], r[5]] for r in WHOLE)


def others():
    lines("slam_llm.jsonl", [{"key": r[0], "source": r[1], "target": r[4], "prompt": "Transcribe.", "task": "ASR"} for r in WHOLE])
    names = {"ar": "Arabic", "en": "English"}
    lines("qwen3_asr.jsonl", [{"id": r[0], "audio": r[1], "text": f"language {names[r[6]]}<asr_text>{r[4]}", "prompt": ""} for r in WHOLE])


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    os.chdir(folder)
    for make in (audio, hugging_face, conversations, nemo, lhotse, webdataset, tables, others):
        make()
    for root, _, names in os.walk("."):
        for name in names:
            if name.startswith("cache-") or name.endswith(".lock"):
                os.remove(os.path.join(root, name))


if __name__ == "__main__":
    main(sys.argv[1])
