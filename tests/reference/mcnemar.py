"""McNemar's exact test: `tests/fixtures/significance/mcnemar.json`, a list of [first only, second only, p].

    pip install statsmodels==0.15.0
    python tests/reference/mcnemar.py > tests/fixtures/significance/mcnemar.json
"""

from statsmodels.stats.contingency_tables import mcnemar

PAIRS = [(a, b) for a in (0, 1, 2, 3, 5, 8, 13) for b in (0, 1, 2, 4, 7, 12, 20)] + [(0, 100), (40, 60), (60, 40), (100, 100), (450, 550), (1000, 1200), (3000, 3100), (0, 1000)]


def main() -> None:
    rows = []
    for first, second in PAIRS:
        found = mcnemar([[17, first], [second, 29]], exact=True)
        rows.append(f"[{first}, {second}, {float(found.pvalue)!r}]")
    print("[\n" + ",\n".join(rows) + "\n]")


if __name__ == "__main__":
    main()
