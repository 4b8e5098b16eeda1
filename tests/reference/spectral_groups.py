"""Spectral groups and average linkage: `tests/fixtures/spectral/groups.json`.

    pip install scikit-learn==1.9.1 scipy==1.17.1
    python tests/reference/spectral_groups.py > tests/fixtures/spectral/groups.json
"""

import json

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import laplacian
from scipy.spatial.distance import squareform
from sklearn.cluster import SpectralClustering

PLANTED = [[2, 3], [3, 3, 2], [1, 4, 3], [5, 2, 4], [2, 2, 2, 3], [4, 4]]


def cosines(rng: np.random.Generator, sizes: list[int], noise: float) -> np.ndarray:
    """Cosines of gradients around one direction for each group."""
    dims = 400
    centres = rng.standard_normal((len(sizes), dims))
    of_thing = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(of_thing))
    gradients = centres[of_thing[order]] + noise * rng.standard_normal((len(order), dims))
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients @ gradients.T


def main() -> None:
    rng = np.random.default_rng(20)
    cases = []
    for noise in (0.6, 1.2):
        for sizes in PLANTED:
            similar = cosines(rng, sizes, noise)
            affinities = (1 + similar) / 2
            affinities = (affinities + affinities.T) / 2
            distances = 1 - similar
            np.fill_diagonal(distances, 0)
            distances = (distances + distances.T) / 2
            k = len(sizes)
            fitted = SpectralClustering(k, affinity="precomputed", n_init=200, random_state=0).fit(affinities)
            values = np.linalg.eigvalsh(laplacian(affinities, normed=True)).tolist()
            cases.append({
                "name": f"{sizes} with noise {noise}",
                "n": len(similar),
                "k": k,
                "k_of_gap": max(range(2, len(values)), key=lambda k: (values[k] - values[k - 1], -k)),
                "affinities": affinities.ravel().tolist(),
                "labels": fitted.labels_.tolist(),
                "eigenvalues": values,
                "distances": distances.ravel().tolist(),
                "linkage": [[*sorted(row[:2]), row[2]] for row in linkage(squareform(distances, checks=False), "average").tolist()],
            })
    print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
