"""Loads the output of `maqam data export` with the library of each format, and prints the rows.

    python tests/reference/load_formats.py EXPORTS > crates/data/tests/fixtures/formats/loaded.txt

EXPORTS holds a folder for each format, named as `--format` names it, made in the folder of the fixtures:

    for f in huggingface lhotse lhotse-shar webdataset nemo kaldi csv tsv common-voice; do
      maqam data export table.csv --format $f --out EXPORTS/$f --copy-audio; done
    for f in ms-swift llama-factory slam-llm qwen3-asr; do
      maqam data export qwen3_asr.jsonl --format $f --out EXPORTS/$f --copy-audio --task asr; done

Ran with datasets 5.2.0, lhotse 1.33.0, webdataset 1.0.2, soundfile 0.14.0. If no library reads a format, the script follows its documentation:
`json`, `csv`, and paths that must open.
"""

import csv
import glob
import io
import json
import os
import sys

import soundfile as sf


def told(name, rows):
    rows = sorted(rows)
    print(f"{name}: {len(rows)} rows")
    for row in rows:
        print("   ", *row)


def opened(path, folder=""):
    data, rate = sf.read(os.path.join(folder, path))
    return f"{len(data)} samples at {rate}"


def hugging_face(folder):
    from datasets import Audio, load_dataset

    data = load_dataset(folder, split="train").cast_column("audio", Audio(decode=False))
    rows = []
    for row in data:
        samples, rate = sf.read(io.BytesIO(row["audio"]["bytes"]))
        rows.append((row["id"], row["text"], f"{len(samples)} samples at {rate}"))
    print("features:", {name: str(feature)[:40] for name, feature in sorted(data.features.items())})
    told("huggingface (datasets.load_dataset)", rows)


def lhotse(folder, shar):
    from lhotse import CutSet, validate

    cuts = CutSet.from_shar(in_dir=shar) if shar else CutSet.from_file(f"{folder}/cuts.jsonl.gz")
    rows = []
    for cut in cuts:
        validate(cut)
        rows.append((cut.id, cut.supervisions[0].text, f"{cut.load_audio().shape[1]} samples at {cut.sampling_rate}"))
    told(f"{'lhotse-shar (CutSet.from_shar)' if shar else 'lhotse (CutSet.from_file)'}", rows)


def kaldi(folder):
    from lhotse.kaldi import load_kaldi_data_dir

    recordings, supervisions, _ = load_kaldi_data_dir(folder, sampling_rate=8000)
    told("kaldi (lhotse.kaldi.load_kaldi_data_dir)",
         [(s.id, s.text, f"{recordings[s.recording_id].load_audio(offset=s.start, duration=s.duration).shape[1]} samples") for s in supervisions])


def webdataset(folder):
    import webdataset as wds

    rows = []
    for sample in wds.WebDataset(sorted(glob.glob(f"{folder}/*.tar")), shardshuffle=False):
        ending = next(name for name in sample if name in ("wav", "flac"))
        about = json.loads(sample["json"])
        samples, rate = sf.read(io.BytesIO(sample[ending]))
        rows.append((about["id"], sample["txt"].decode(), f"{len(samples)} samples at {rate}"))
    told("webdataset (wds.WebDataset)", rows)


def json_lines(folder, name, file, audio, text, whole_list=False):
    with open(f"{folder}/{file}", encoding="utf-8") as source:
        rows = json.load(source) if whole_list else [json.loads(line) for line in source]
    told(name, [(str(row.get("id", row.get("key"))), text(row), opened(audio(row), folder)) for row in rows])


def tables(folder, name, file, delimiter, text, audio, quoting=csv.QUOTE_MINIMAL):
    with open(f"{folder}/{file}", encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source, delimiter=delimiter, quoting=quoting))
    told(name, [(row["id"], row[text], opened(audio(row), folder)) for row in rows])


def main(root):
    hugging_face(f"{root}/huggingface")
    lhotse(f"{root}/lhotse", None)
    lhotse(None, f"{root}/lhotse-shar")
    kaldi(f"{root}/kaldi")
    webdataset(f"{root}/webdataset")
    json_lines(f"{root}/nemo", "nemo", "manifest.json", lambda r: r["audio_filepath"], lambda r: r["text"])
    json_lines(f"{root}/ms-swift", "ms-swift", "train.jsonl", lambda r: r["audios"][0], lambda r: r["messages"][-1]["content"])
    json_lines(f"{root}/llama-factory", "llama-factory", "maqam.json", lambda r: r["audios"][0],
               lambda r: r["conversations"][-1]["value"], whole_list=True)
    json_lines(f"{root}/slam-llm", "slam-llm", "train.jsonl", lambda r: r["source"], lambda r: r["target"])
    json_lines(f"{root}/qwen3-asr", "qwen3-asr", "train.jsonl", lambda r: r["audio"], lambda r: r["text"])
    tables(f"{root}/csv", "csv", "train.csv", ",", "text", lambda r: r["audio"])
    tables(f"{root}/tsv", "tsv", "train.tsv", "\t", "text", lambda r: r["audio"])
    tables(f"{root}/common-voice", "common-voice", "train.tsv", "\t", "sentence", lambda r: "clips/" + r["path"], csv.QUOTE_NONE)


if __name__ == "__main__":
    main(sys.argv[1])
