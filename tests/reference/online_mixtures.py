"""Weights of tasks that follow a reward: `tests/fixtures/schedule/online.json`.

    python tests/reference/online_mixtures.py > tests/fixtures/schedule/online.json

Three tasks, ten updates. Python's exact fractions and 50 decimal digits stand for the formulas as
their papers print them, without the rearrangements that a program needs.

ODM: Albalak et al. 2023, arXiv 2312.02406, section 3; moving average as in the authors' code.
DynamiX: DynamixSFT, arXiv 2508.12116.
"""

import json
from decimal import Decimal as D
from decimal import getcontext

getcontext().prec = 50

# None: the task has no row in the step.
LOSSES = [
    [2.5, 1.25, 4.0],
    [2.25, None, 3.5],
    [2.0, 1.125, None],
    [None, 1.0, 3.0],
    [1.75, 0.875, 2.75],
    [1.5, None, None],
    [1.375, 0.75, 2.5],
    [1.25, 0.625, None],
    [None, None, 2.25],
    [1.125, 0.5, 2.0],
]
# Losses before and after a look-ahead step. The third has equal gains.
LOOKAHEADS = [
    [[2.5, 2.25], [1.25, 1.0], [4.0, 3.75]],
    [[2.25, 2.0], [1.0, 1.0], [3.75, 3.0]],
    [[2.0, 1.5], [1.0, 0.75], [4.0, 3.0]],
    [[1.5, 1.625], [0.75, 0.5], [3.0, 2.75]],
    [[1.5, 1.25], [0.5, 0.5], [2.75, 2.0]],
    [[1.25, 1.0], [0.5, 0.375], [2.0, 2.125]],
    [[1.0, 1.125], [0.375, 0.5], [2.0, 1.75]],
    [[1.0, 0.875], [0.375, 0.25], [1.75, 1.5]],
    [[0.875, 0.75], [0.25, 0.25], [1.5, 1.25]],
    [[0.75, 0.5], [0.25, 0.125], [1.25, 1.0]],
]
TASKS = 3


def epsilon(t: int) -> D:
    cap = D(1) / TASKS
    return cap if t == 0 else min(cap, (D(TASKS).ln() / (TASKS * t)).sqrt())


def odm(alpha: str, scale: str, floor: str) -> list:
    alpha, scale, floor = D(alpha), D(scale), D(floor)
    weights = [D(1) / TASKS] * TASKS
    rewards = [D(0)] * TASKS
    found = []
    for t, losses in enumerate(LOSSES, start=1):
        for i, loss in enumerate(losses):
            if loss is not None:
                rewards[i] = alpha * rewards[i] + (1 - alpha) * scale * D(loss) / weights[i]
        raised = [(epsilon(t - 1) * reward).exp() for reward in rewards]
        mixed = [(1 - TASKS * epsilon(t)) * x / sum(raised) + epsilon(t) for x in raised]
        floored = [max(weight, floor) for weight in mixed]
        weights = [weight / sum(floored) for weight in floored]
        found.append({"rewards": [float(x) for x in rewards], "weights": [float(x) for x in weights]})
    return found


def dynamix(gamma: str, beta: str, alpha: str, of: str, prior: list) -> list:
    gamma, beta, alpha = D(gamma), D(beta), D(alpha)
    prior = [D(x) for x in prior]
    past = alpha if of == "past" else 1 - alpha
    averages = [D(0)] * TASKS
    found = []
    for pairs in LOOKAHEADS:
        gains = [(D(before) - D(after)) / D(before) for before, after in pairs]
        spread = max(gains) - min(gains)
        rewards = [(gain - min(gains)) / spread if spread else D(0) for gain in gains]
        averages = [past * q + (1 - past) * r for q, r in zip(averages, rewards)]
        raised = [(beta * q).exp() * p for q, p in zip(averages, prior)]
        weights = [(1 - gamma) * x / sum(raised) + gamma / TASKS for x in raised]
        found.append({"rewards": [float(x) for x in averages], "weights": [float(x) for x in weights]})
    return found


def main() -> None:
    cases = {
        "losses": LOSSES,
        "lookaheads": LOOKAHEADS,
        "odm": [
            {"alpha": 0.9, "reward_scale": 1.0, "floor": 0.0, "steps": odm("0.9", "1", "0")},
            {"alpha": 0.5, "reward_scale": 15.0, "floor": 0.125, "steps": odm("0.5", "15", "0.125")},
        ],
        "dynamix": [
            {
                "gamma": 0.3, "beta": 5.0, "alpha": 0.95, "alpha_of": "past", "prior": [0.5, 0.375, 0.125],
                "steps": dynamix("0.3", "5", "0.95", "past", [0.5, 0.375, 0.125]),
            },
            {
                "gamma": 0.25, "beta": 4.0, "alpha": 0.95, "alpha_of": "reward", "prior": [0.25, 0.25, 0.5],
                "steps": dynamix("0.25", "4", "0.95", "reward", [0.25, 0.25, 0.5]),
            },
        ],
    }
    print(json.dumps(cases, indent=1))


if __name__ == "__main__":
    main()
