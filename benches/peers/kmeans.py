"""MiniBatchKMeans of scikit-learn over one pass of 768-dimensional frames, made batch by batch, to compare with `benches/encoder.rs kmeans`.

    python benches/peers/kmeans.py [HOURS] [CLUSTERS]

One `partial_fit` per batch of 10,000 frames; making the frames does not count.
"""

import json
import resource
import sys
import time

import numpy as np
from sklearn.cluster import MiniBatchKMeans

hours, k = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, int(sys.argv[2]) if len(sys.argv) > 2 else 500
frames, g = int(hours * 3600 * 50), np.random.default_rng(1)
truth = g.random((k, 768), dtype=np.float32)
noise = g.random(1 << 20, dtype=np.float32) - 0.5


def batch(rows):
    at = g.integers(0, len(noise) - 768, rows)
    return truth[g.integers(0, k, rows)] + noise[at[:, None] + np.arange(768)]


model = MiniBatchKMeans(k, init=batch(k), n_init=1, batch_size=10_000, reassignment_ratio=0.0)
work = 0.0
for start in range(0, frames, 10_000):
    values = batch(min(10_000, frames - start))
    begun = time.perf_counter()
    model.partial_fit(values)
    work += time.perf_counter() - begun
inertia = -model.score(values) / len(values)
print(json.dumps({"hours": hours, "frames": frames, "clusters": k, "seconds": round(work, 2), "inertia_per_frame": round(inertia, 4), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
