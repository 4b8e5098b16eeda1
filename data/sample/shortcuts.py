"""Scores of classifiers without the words of the sample: the floors that a model must exceed.

    python data/sample/shortcuts.py    # needs scikit-learn 1.7, librosa 0.11, soundfile 0.14

Logistic regression from each shortcut to emotion and dialect, trained on the train rows, scored on dev and test: unweighted average recall.
"""

import json
from pathlib import Path

import librosa
import numpy as np
import soundfile
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).parent


def rows(task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / f"{task}-{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def mean_mel(row: dict) -> np.ndarray:
    samples, rate = soundfile.read(HERE / row["audio"])
    return np.log(librosa.feature.melspectrogram(y=samples, sr=rate, n_mels=40) + 1e-6).mean(1)


texts = {split: [row["text"] for row in rows("asr", split)] for split in ("train", "dev", "test")}
mels = {split: [mean_mel(row) for row in rows("asr", split)] for split in ("train", "dev", "test")}
for task in ("emotion", "dialect"):
    labels = {split: [row["label"] for row in rows(task, split)] for split in texts}
    shortcuts = {
        "text": (make_pipeline(CountVectorizer(analyzer="word", token_pattern=r"\S+"), LogisticRegression(max_iter=2000)), texts),
        "duration": (make_pipeline(StandardScaler(), LogisticRegression()), {s: [[row["duration"]] for row in rows(task, s)] for s in texts}),
        "mean mel": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), mels),
        "voice": (make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()), {s: [[row["speaker"]] for row in rows(task, s)] for s in texts}),
    }
    for name, (model, features) in shortcuts.items():
        model.fit(features["train"], labels["train"])
        scores = {split: recall_score(labels[split], model.predict(features[split]), average="macro") for split in ("dev", "test")}
        print(f"{task:8} from {name:8}  dev {scores['dev']:.2f}  test {scores['test']:.2f}")
