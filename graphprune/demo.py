"""`graphprune demo`: from training to a smaller, verified, compiled network in about a minute.

Everything runs on the handwritten digits that come with scikit-learn; nothing is downloaded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import graphprune

from . import report, timing
from .errors import CompileError, GraphPruneError, TargetError

EPOCHS, FINE_TUNING_EPOCHS, BATCH = 8, 4, 64
TURNS = 200  # of latency measurement
NOTES = """\
Pruned equals masked: relative error {error:.0e} in float64, before fine-tuning.
Accuracy on {tested} digits that were not trained on.
Latency of one image, {threads} thread{s}, medians of {turns} alternated turns.
See {picture} for the channels of every layer; {out} also holds both networks, compiled and not."""


class Elsewhere(NamedTuple):
    """Another machine that the slim network is compiled for: its target, the file, and how to run it there."""

    target: str
    file: str
    how: str


ELSEWHERE = (
    Elsewhere(
        "arm-cortex-a72",
        "slim-arm.gp",
        'for a Raspberry Pi 4. Copy it there, install GraphPrune, and call graphprune.load("slim-arm.gp")(image); or '
        "measure it from here: graphprune bench {path} --rpc HOST:PORT, see docs/arm.md.",
    ),
    Elsewhere(
        "cuda-sm80",
        "slim-cuda.gp",
        "for an NVIDIA A100 (RTX 30 and 40 run it, too). Copy it there, install GraphPrune and nvidia-cuda-runtime, "
        'and call graphprune.load("slim-cuda.gp")(image), see docs/cuda.md.',
    ),
)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Couple the channels of the shortcut with those of the second convolution."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class Branches(nn.Module):
    """A 1x1 and a 3x3 convolution of the same input, concatenated."""

    def __init__(self, inputs: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(inputs, narrow, 1)
        self.wide = nn.Conv2d(inputs, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Join the two branches."""
        return functional.relu(torch.cat([self.narrow(x), self.wide(x)], dim=1))


class SqueezeExcite(nn.Module):
    """A gate per channel, computed from the mean of every channel."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel by its gate."""
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(mean))))


class DigitNet(nn.Module):
    """A small residual network with a concat and a squeeze-excite branch, for 8x8 images of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.block1 = Residual(32, 64)
        self.branches = Branches(64, 32, 64)
        self.gate = SqueezeExcite(96, 24)
        self.block2 = Residual(96, 128, stride=2)
        self.block3 = Residual(128, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, 1, 8, 8) to ten scores each."""
        x = functional.relu(self.stem(x))
        x = self.gate(self.branches(self.block1(x)))
        x = self.block3(self.block2(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Digits(NamedTuple):
    """Handwritten digits: four fifths to train on, one fifth to test on."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_digits() -> Digits:
    """Load the 1,797 digits that come with scikit-learn."""
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        message = "the demo needs scikit-learn for its handwritten digits: pip install 'graphprune[demo]'"
        raise GraphPruneError(message) from error
    images, targets = datasets.load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images.reshape(-1, 1, 8, 8).astype("float32") / 16, targets, test_size=0.2, stratify=targets, random_state=0
    )
    return Digits(*map(torch.from_numpy, (train_x, train_y, test_x, test_y)))


def train(
    model: nn.Module, digits: Digits, epochs: int, rate: float, seed: int, after_epoch: Callable[[], None]
) -> None:
    """Train in place: SGD with momentum, the rate rising and falling once, images shifted by up to a pixel."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(digits.train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train_x), generator=generator).split(BATCH):
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            images = digits.train_x[batch].roll(shift, (2, 3))
            loss = functional.cross_entropy(model(images), digits.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        after_epoch()
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of test digits that are recognised."""
    return float((model(digits.test_x).argmax(1) == digits.test_y).float().mean())


@torch.inference_mode()
def latency(programs: dict[str, Callable[[Tensor], Any]], image: Tensor) -> dict[str, float]:
    """Median seconds for one image, the programs taking turns."""
    calls = {name: partial(program, image) for name, program in programs.items()}
    return timing.alternate(calls, repeats=TURNS, warmup=20)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _step(progress: Progress, text: str, total: int = 1) -> Iterator[Callable[[], None]]:
    """Show one step; yields a function that moves its bar on by one."""
    task = progress.add_task(text, total=total)
    yield lambda: progress.advance(task)
    progress.update(task, completed=total)


def _table(figures: dict[str, Any]) -> Table:
    """Dense beside slim, one row per figure."""
    rows = [
        ["parameters", *_pair(report.count, figures["params"])],
        ["MACs", *_pair(report.count, figures["macs"])],
        ["weights file", *_pair(report.size, figures["bytes"]["weights"])],
        ["compiled file", *_pair(report.size, figures["bytes"]["artifact"])],
    ]
    dense, pruned, tuned = (f"{100 * share:.1f} %" for share in figures["accuracy"])
    rows += [["accuracy before fine-tuning", dense, pruned, ""], ["accuracy after fine-tuning", dense, tuned, ""]]
    for place in ("in PyTorch", "compiled"):
        rows.append([f"latency {place}", *_pair(report.duration, figures["seconds"][place])])
    return report.table("", ["", "dense", "slim", "left"], rows)


def _pair(show: Callable[[Any], str], pair: Sequence[float]) -> list[str]:
    before, after = pair
    return [show(before), show(after), report.change(before, after)]


def _widths(dense: nn.Module, slim: nn.Module) -> list[report.Width]:
    """Output channels of every convolution and linear layer."""
    after = slim.state_dict()
    return [
        report.Width(name.removesuffix(".weight"), len(weight), len(after[name]))
        for name, weight in dense.state_dict().items()
        if weight.ndim > 1
    ]


def _save(out: Path, dense: nn.Module, slim: nn.Module, artifacts: dict[str, Any]) -> dict[str, list[int]]:
    """Write the weights and the compiled networks; returns the sizes of the files, dense and slim."""
    save_file(dense.state_dict(), out / "dense.safetensors")
    graphprune.save(slim, out / "slim.safetensors")  # weights and plan
    for name, artifact in artifacts.items():
        artifact.save(out / f"{name}.gp")
    endings = {"weights": "safetensors", "artifact": "gp"}
    return {kind: [(out / f"{n}.{end}").stat().st_size for n in ("dense", "slim")] for kind, end in endings.items()}


def _compile_elsewhere(slim: nn.Module, image: Tensor, out: Path, progress: Progress) -> list[str]:
    """Write the slim network for other machines; returns what to say of each file, or what is missing to make it."""
    notes = []
    with _step(progress, "compile the slim network for other machines", len(ELSEWHERE)) as advance:
        for machine in ELSEWHERE:
            path = out / machine.file
            try:
                graphprune.compile(slim, target=machine.target, example_inputs=image).save(path)
                notes.append(f"{path} is {machine.how.format(path=path)}")
            except (CompileError, TargetError) as error:
                notes.append(f"{path} was not made: {error}")
            advance()
    return notes


def run(out: Path, seed: int = 0, threads: int = 1, console: "Console | None" = None) -> dict[str, Any]:
    """Run the demo, write models, plan and picture into `out`, print one table, return its figures."""
    console = console or Console()
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    torch.manual_seed(seed)
    columns = SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn()
    with _threads(threads), Progress(*columns, console=console) as progress:
        dense, slim, figures = _train_and_prune(digits, seed, progress)
        models = {"dense": dense, "slim": slim}
        artifacts, seconds = _compile_and_measure(models, digits.test_x[:1], threads, progress)
        elsewhere = _compile_elsewhere(slim, digits.test_x[:1], out, progress)
    figures |= {"seconds": seconds, "threads": threads, "bytes": _save(out, dense, slim, artifacts)}
    console.print(_table(figures))
    picture = report.picture(_widths(dense, slim), out / "channels.png", "Channels of every layer")
    notes = {"tested": len(digits.test_y), "s": "s" * (threads > 1), "turns": TURNS, "picture": picture, "out": out}
    console.print("\n".join([NOTES.format(**figures, **notes), *elsewhere]), soft_wrap=True, markup=False)
    return figures


def _train_and_prune(digits: Digits, seed: int, progress: Progress) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """The trained network, what is left of it after pruning and fine-tuning, and their figures."""
    dense = DigitNet()
    with _step(progress, f"train a network on {len(digits.train_y)} handwritten digits", EPOCHS) as advance:
        train(dense, digits, EPOCHS, 0.1, seed, advance)
    with _step(progress, "prune half of its parameters"):
        slim = graphprune.optimize(dense, sparsity=0.5, target="x86", example_inputs=digits.test_x[:1])
    with _step(progress, "verify in float64: pruned equals masked"):
        verified = graphprune.verify(dense, slim, thorough=True)  # before fine-tuning: the weights are still the same
    accuracies = [accuracy(dense, digits), accuracy(slim, digits)]
    with _step(progress, "fine-tune what is left", FINE_TUNING_EPOCHS) as advance:
        train(slim, digits, FINE_TUNING_EPOCHS, 0.03, seed + 1, advance)
    plan = graphprune.plan_of(slim)
    assert plan is not None
    figures = {key: plan.report[key] for key in ("params", "macs")}
    return dense, slim, figures | {"accuracy": [*accuracies, accuracy(slim, digits)], "error": verified.error}


def _compile_and_measure(
    models: dict[str, nn.Module], image: Tensor, threads: int, progress: Progress
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Both networks compiled, and their latencies [dense, slim] in PyTorch and compiled."""
    artifacts: dict[str, Any] = {}
    with _step(progress, "compile both networks for this machine", len(models)) as advance:
        for name, model in models.items():
            artifacts[name] = graphprune.compile(model, target="x86", example_inputs=image, threads=threads)
            advance()
    with _step(progress, "measure"):
        medians = latency({**{f"torch {name}": model for name, model in models.items()}, **artifacts}, image)
    return artifacts, {
        "in PyTorch": [medians[f"torch {name}"] for name in models],
        "compiled": [medians[name] for name in models],
    }
