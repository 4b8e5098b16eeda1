"""PCGrad and FAMO on three tasks and ten steps: `tests/fixtures/surgery.json`.

    pip install torch==2.15.0
    python tests/reference/gradient_surgery.py > tests/fixtures/surgery.json

PCGrad: Yu et al. 2020, algorithm 1, on gradients of six numbers in f64.
FAMO: Liu et al. 2023, algorithm 1. The weights' gradient is autograd's of the softmax, and their
optimiser is PyTorch's Adam with `weight_decay`. The losses are those of three quadratics of two
parameters, which plain gradient descent follows with the weights, so that each step depends on the
one before.
"""

import json
import random

import torch

TASKS = 3
STEPS = 10


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def pcgrad():
    draw = random.Random(28)
    cases = []
    for _ in range(STEPS):
        # Eighths are exact in f32.
        gradients = [[draw.randint(-16, 16) / 8 for _ in range(6)] for _ in range(TASKS)]
        orders = [draw.sample(range(TASKS), TASKS) for _ in range(TASKS)]
        projections = 0
        total = [0.0] * 6
        for i in range(TASKS):
            g = list(gradients[i])
            for j in orders[i]:
                if j != i and dot(g, gradients[j]) < 0:
                    factor = dot(g, gradients[j]) / dot(gradients[j], gradients[j])
                    g = [x - factor * y for x, y in zip(g, gradients[j])]
                    projections += 1
            total = [x + y for x, y in zip(total, g)]
        cases.append({"gradients": gradients, "orders": orders, "sum": total, "projections": projections})
    return cases


def losses_at(x):
    return torch.stack([
        (x[0] - 3.0) ** 2 + 0.5,
        4.0 * (x[1] + 1.0) ** 2 + 0.25,
        0.25 * (x[0] + x[1]) ** 2 + 1.0,
    ])


def famo(lr, decay):
    x = torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=lr, weight_decay=decay)
    found = []
    for _ in range(STEPS):
        before = losses_at(x)
        weights = torch.softmax(logits, -1).detach()
        shifted = before + 1e-8
        scale = (weights / shifted).sum().detach()
        objective = (torch.log(shifted) * weights / scale).sum()
        (gradient,) = torch.autograd.grad(objective, x)
        per_task = [torch.autograd.grad(losses_at(x)[i], x)[0].tolist() for i in range(TASKS)]
        with torch.no_grad():
            x -= 0.02 * gradient
        after = losses_at(x).detach()
        fall = torch.log(before.detach() + 1e-8) - torch.log(after + 1e-8)
        (d,) = torch.autograd.grad(torch.softmax(logits, -1), logits, grad_outputs=fall)
        adam.zero_grad()
        logits.grad = d
        adam.step()
        found.append({
            "before": before.tolist(),
            "after": after.tolist(),
            "weights": weights.tolist(),
            "gradients": per_task,
            "gradient": gradient.tolist(),
            "logits": logits.tolist(),
        })
    return {"learning_rate": lr, "decay": decay, "steps": found}


def main() -> None:
    print(json.dumps({"pcgrad": pcgrad(), "famo": [famo(0.025, 0.01), famo(0.5, 0.0)]}, indent=1))


if __name__ == "__main__":
    main()
