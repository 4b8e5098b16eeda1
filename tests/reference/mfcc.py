"""MFCC with two orders of differences of a clip, by torchaudio's port of Kaldi: `crates/audio/tests/fixtures/mfcc.json`.

    python tests/reference/mfcc.py > crates/audio/tests/fixtures/mfcc.json

Ran with torchaudio 2.11.1. The clip is a formula, which the test computes too. As in HuBERT's first iteration (fairseq,
examples/hubert/simple_kmeans/dump_mfcc_feature.py): 13 coefficients, no energy, differences over windows of five frames.
"""

import json

import torch
import torchaudio

n = 1600
i = torch.arange(n, dtype=torch.float64)
clip = (0.3 * torch.sin(0.05 * i) + 0.2 * torch.sin(0.31 * i + 0.002 * i * i) + 0.01).float()
mfcc = torchaudio.compliance.kaldi.mfcc(clip[None], sample_frequency=16000, use_energy=False, dither=0.0).T
first = torchaudio.functional.compute_deltas(mfcc)
second = torchaudio.functional.compute_deltas(first)
rows = torch.cat([mfcc, first, second]).T
print(json.dumps({"samples": n, "rows": [[round(float(x), 5) for x in row] for row in rows]}))
