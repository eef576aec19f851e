"""Accuracy of trained CIFAR-10 networks that are pruned while they are fine-tuned: schedules, penalties, distillation.

    GRAPHPRUNE_DATA=... python benchmarks/schedules.py [--network 20] [--steps 600] [--images 40000] [--threads 2]

All recipes do the same number of steps on the same images in the same order, and end at the same budget.
"""

import argparse
import copy
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

import graphprune
from cifar import accuracy, data_folder, load
from common import console, machine, page, parameters, show

COLUMNS = ("", "parameters", "MACs", "accuracy")


@dataclass(frozen=True)
class Recipe:
    """How a network is pruned: options of a schedule, a penalty, and whether the dense network teaches it."""

    kind: str
    distilled: bool = False
    penalty: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "one-shot": Recipe("one-shot"),
    "linear": Recipe("linear"),
    "cosine": Recipe("cosine"),
    "cubic": Recipe("cubic"),
    "cubic, group lasso": Recipe("cubic", penalty={"kind": "group_lasso", "strength": 1e-6}),
    "one-shot, distilled": Recipe("one-shot", distilled=True),
    "cubic, distilled": Recipe("cubic", distilled=True),
}


def batches(images: torch.Tensor, labels: torch.Tensor, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of 128, flipped and shifted by up to four pixels. The seed fixes every choice."""
    generator, left = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        left = left or list(torch.randperm(len(images), generator=generator).split(128))[:-1]
        batch = left.pop()
        down, right, flip = torch.randint(0, 9, (3,), generator=generator).tolist()
        x = functional.pad(images[batch], (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
        yield x.flip(3) if flip < 4 else x, labels[batch]


def tuned(dense: Any, recipe: Recipe, train: tuple[torch.Tensor, torch.Tensor], steps: int, sparsity: float) -> Any:
    """A copy of a network that was pruned within the first half of the steps."""
    torch.manual_seed(0)
    model, teacher = copy.deepcopy(dense).train(), graphprune.teacher(dense)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    example = train[0][:1]
    end = 1 if recipe.kind == "one-shot" else steps // 2
    schedule = graphprune.Schedule(
        sparsity, begin=1, end=end, every=max(1, steps // 20), kind=recipe.kind, budget="macs", verify=False
    )
    pruner = schedule.attach(model, optimizer, example)
    penalty = graphprune.regularizer(model=model, example_inputs=example, **recipe.penalty) if recipe.penalty else None
    for x, y in batches(*train, steps):
        outputs = model(x)
        if recipe.distilled:
            loss = graphprune.distillation(outputs, teacher(x), y)
        else:
            loss = functional.cross_entropy(outputs, y)
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        pruner.step()
    pruner.finish()
    return model.eval()


def main() -> None:
    """Measure every recipe; print and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--network", type=int, choices=(20, 32), default=20)
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--images", type=int, default=40000)
    options.add_argument("--sparsity", type=float, default=0.5)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder = data_folder()
    from resnet_cifar import resnet

    example, test, train = torch.randn(1, 3, 32, 32), load("test_a", 10000), load("train", given.images)
    dense = resnet(given.network, folder / "cifar10_models" / f"resnet{given.network}_cifar10.pt").eval()
    models = {"dense": dense}
    for name in given.recipes:
        start = time.perf_counter()
        models[name] = tuned(dense, RECIPES[name], train, given.steps, given.sparsity)
        console.print(f"{name}: {time.perf_counter() - start:.0f} s")
    rows = [
        [
            name,
            f"{parameters(model):,}",
            f"{graphprune.analyze(model, example_inputs=example).cost().macs:,}",
            f"{100 * accuracy(model, *test):.2f} %",
        ]
        for name, model in models.items()
    ]
    show(f"CIFAR-10 ResNet-{given.network}", COLUMNS, rows)
    text = TEXT.format(
        machine=machine(given.threads),
        flags=f"--network {given.network} --steps {given.steps}",
        network=given.network,
        test=len(test[1]),
        share=f"{100 * (1 - given.sparsity):.0f} %",
        steps=given.steps,
        images=len(train[1]),
    )
    page(f"schedules_resnet{given.network}", f"Pruning ResNet-{given.network} while fine-tuning", text, (COLUMNS, rows))


TEXT = """
Printed by `python benchmarks/schedules.py {flags}`. {machine}.

A trained ResNet-{network}, tested on {test:,} images of the CIFAR-10 test set. Every recipe leaves at most {share} of
the multiply-accumulates and does {steps} steps of fine-tuning on {images:,} training images (SGD, batches of 128,
cosine rate from 0.02, flips and shifts), the same images in the same order. "one-shot" prunes after the first step, the
others bit by bit within the first half of the steps.
"""


if __name__ == "__main__":
    main()
