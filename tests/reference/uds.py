"""Scores of UDS on given logits: `tests/fixtures/uds/scores.json`.

    pip install numpy==2.4.6
    python tests/reference/uds.py > tests/fixtures/uds/scores.json

Utility-Diversity Sampling, arXiv 2510.16882: the score of a row is the nuclear norm of its logits
plus alpha times the mean distance of their projection to those of a queue. Singular values are
numpy's, and the projection is a Fourier transform along the vocabulary and along the positions,
which are padded with zeros.
"""

import json

import numpy as np

ROWS, COLUMNS, LENGTH, ALPHA = 3, 4, 8, 0.0025
# Positions and tokens of each row's logits, and their rank: full, low, one position, more positions
# than tokens.
SHAPES = [(3, 7, 3), (5, 7, 2), (1, 7, 1), (8, 7, 7), (6, 7, 6), (2, 7, 2)]
# Rows that were chosen before.
QUEUED = 2


def signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2, count) * 2 - 1


def main() -> None:
    rng = np.random.default_rng(28)
    vocabulary = SHAPES[0][1]
    of_tokens, of_positions = signs(rng, vocabulary), signs(rng, LENGTH)
    tokens, positions = rng.integers(0, vocabulary, COLUMNS), rng.integers(0, LENGTH, ROWS)

    def project(logits: np.ndarray) -> np.ndarray:
        padded = np.zeros((LENGTH, vocabulary))
        padded[: len(logits)] = logits
        x = np.fft.fft(padded * of_tokens, axis=1).real[:, tokens] * np.sqrt(vocabulary / COLUMNS)
        x = np.fft.fft(x * of_positions[:, None], axis=0).real[positions] * np.sqrt(LENGTH / ROWS)
        return x.ravel()

    rows = []
    for length, width, rank in SHAPES:
        logits = 4 * rng.standard_normal((length, rank)) @ rng.standard_normal((rank, width))
        rows.append(logits.astype(np.float32).astype(np.float64))
    projections = [project(logits) for logits in rows]
    queue = projections[:QUEUED]
    cases = []
    for logits, projection in zip(rows, projections):
        norm = float(np.linalg.svd(logits, compute_uv=False).sum())
        distance = float(np.mean([np.linalg.norm(projection - other) for other in queue]))
        cases.append({
            "logits": logits.ravel().tolist(),
            "norm": norm,
            "projection": projection.tolist(),
            "distance": distance,
            "score": norm + ALPHA * distance,
        })
    best = np.argsort([-case["score"] for case in cases], kind="stable")[:3]
    print(json.dumps({
        "vocabulary": vocabulary,
        "alpha": ALPHA,
        "queued": QUEUED,
        "token_signs": of_tokens.tolist(),
        "tokens": tokens.tolist(),
        "position_signs": of_positions.tolist(),
        "positions": positions.tolist(),
        "cases": cases,
        "best": sorted(best.tolist()),
    }, indent=1))


if __name__ == "__main__":
    main()
