"""Fine-tuning by one recipe: several pruned networks learn side by side from the same batches in the same order.

On a GPU every network's step is recorded once and replayed, beside those of the others; on a processor it is a plain
loop. Both take the same random numbers.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

import graphprune

BATCH = 128
SHIFT = 4


class Recipe(NamedTuple):
    """SGD with momentum 0.9, a rate that rises for `warm` of the steps and falls as a cosine; and a teacher."""

    epochs: int = 30
    rate: float = 0.1
    warm: float = 0.15
    decay: float = 5e-4
    temperature: float = 4.0
    alpha: float = 0.7

    def __str__(self) -> str:
        """In words, for a page."""
        return (
            f"SGD with momentum 0.9 and weight decay {self.decay:g}, a one-cycle rate up to {self.rate:g}, batches of "
            f"{BATCH}, flips and shifts of each image, the outputs of the dense network as soft targets (temperature "
            f"{self.temperature:g}, weight {self.alpha:g}), bfloat16"
        )


def fine_tuned(
    slims: Sequence[nn.Module],
    teacher: nn.Module,
    train: tuple[torch.Tensor, torch.Tensor],
    recipes: Sequence[Recipe],
    device: str = "cpu",
    seed: int = 0,
    each: Callable[[int], Any] = lambda epoch: None,
) -> list[nn.Module]:
    """Trained copies of `slims`, on the processor again; each by its own recipe, all for the epochs of the first."""
    images = functional.pad(train[0], (SHIFT,) * 4).to(device)
    labels = train[1].to(device)
    place = {"device": device, "memory_format": torch.channels_last}
    teacher = copy.deepcopy(teacher).to(**place).eval()
    steps = recipes[0].epochs * -(-len(labels) // BATCH)
    x = images[:BATCH, :, : images.shape[2] - 2 * SHIFT, : images.shape[3] - 2 * SHIFT].contiguous(
        memory_format=torch.channels_last
    )
    shared = _Shared(x.clone(memory_format=torch.preserve_format), labels[:BATCH].clone(), teacher)
    students = [
        _Student(copy.deepcopy(slim).to(**place), recipe, shared) for slim, recipe in zip(slims, recipes, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for epoch in range(recipes[0].epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            rows = x.shape[2], torch.randint(0, 2 * SHIFT + 1, (2, len(batch)), generator=generator)
            flip = torch.rand(len(batch), generator=generator) < 0.5
            shared.take(_augmented(images, batch.to(device), rows, flip), labels[batch.to(device)])
            for student in students:
                student.step(done / steps)
            done += 1
        shared.join(students)
        each(epoch)
    return [student.model.cpu().eval() for student in students]


def _augmented(images: torch.Tensor, batch: torch.Tensor, shifts: tuple[int, torch.Tensor], flip: torch.Tensor) -> Any:
    """The images of a batch, each shifted and flipped on its own: one gather from padded images."""
    size, (down, right) = shifts
    across = torch.arange(size)
    columns = torch.where(flip[:, None], across.flip(0), across) + right[:, None]
    rows, columns = ((down[:, None] + across).to(images.device), columns.to(images.device))
    channels = torch.arange(images.shape[1], device=images.device)
    return images[
        batch[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None]
    ]


class _Shared:
    """What all students see: the batch, and what the teacher says of it."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, teacher: nn.Module) -> None:
        self.x, self.labels, self.teacher = x, labels, teacher
        self.students: list[Any] = []
        self.soft = self._asked(x)

    def take(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """The next batch."""
        for student in self.students:
            student.wait()
        if len(x) == len(self.x):
            self.x.copy_(x)
            self.labels.copy_(labels)
            self.soft.copy_(self._asked(self.x))
            self.now = self.x, self.labels, self.soft
        else:  # the last of an epoch
            x = x.contiguous(memory_format=torch.channels_last)
            self.now = x, labels, self._asked(x)

    def _asked(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            return self.teacher(x).float()

    def join(self, students: Sequence[Any]) -> None:
        """Let all of them finish."""
        for student in students:
            student.wait()


class _Student:
    """A network, its optimizer and, on a GPU, its recorded step."""

    def __init__(self, model: nn.Module, recipe: Recipe, shared: _Shared) -> None:
        self.model, self.recipe, self.shared = model.train(), recipe, shared
        self.cuda = shared.x.is_cuda
        self.rate = torch.zeros((), device=shared.x.device)
        options = {"momentum": 0.9, "weight_decay": recipe.decay, "nesterov": True}
        rate: Any = self.rate if self.cuda else 0.0
        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate, fused=self.cuda or None, **options)
        shared.students.append(self)
        if self.cuda:
            self.stream, self.done = torch.cuda.Stream(), torch.cuda.Event()
            self.graph = self._recorded()

    def _recorded(self) -> Any:
        """The step as a CUDA graph; the steps that warm it up change nothing."""
        before = copy.deepcopy(self.model.state_dict())
        given = self.shared.x, self.shared.labels, self.shared.soft
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._learn(*given)
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._learn(*given)
        self.model.load_state_dict(before)
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()
        torch.cuda.synchronize()
        return graph

    def step(self, share: float) -> None:
        """One step, at this share of the training."""
        rate = self._rate(share)
        x, labels, soft = self.shared.now
        if not self.cuda:
            self.optimizer.param_groups[0]["lr"] = rate
            self._learn(x, labels, soft)
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.rate.fill_(rate)
            if x is self.shared.x:
                self.graph.replay()
            else:
                self._learn(x, labels, soft)
            self.done.record()

    def wait(self) -> None:
        """Before what it reads is written."""
        if self.cuda:
            torch.cuda.current_stream().wait_event(self.done)

    def _rate(self, share: float) -> float:
        recipe = self.recipe
        if share < recipe.warm:
            return recipe.rate * (0.04 + 0.96 * share / recipe.warm)
        return recipe.rate * 0.5 * (1 + math.cos(math.pi * (share - recipe.warm) / (1 - recipe.warm)))

    def _learn(self, x: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor) -> None:
        alpha = self.recipe.alpha
        self.optimizer.zero_grad(set_to_none=False)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            outputs = self.model(x).float()
        hard = functional.cross_entropy(outputs, labels)
        told = graphprune.distillation(outputs, soft, temperature=self.recipe.temperature)
        (alpha * told + (1 - alpha) * hard).backward()
        self.optimizer.step()
