"""Training with several processes: one plan for all, decided by the first; the same as in one process."""

import copy
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import graphprune
from graphprune.errors import TrainingError, WeightsError
from helpers import define_missing_operators

pytestmark = pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="needs gloo")

STEPS = 8


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 16, 5)).double()


def batches(rank: int, ranks: int):
    """Every process its part of the same batches."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(4, 3, 6, 6, generator=generator).double(), torch.randint(5, (4,), generator=generator)
        yield x[rank::ranks], y[rank::ranks]


def train(rank: int, ranks: int, wrap, spoil=None):
    """A plain loop; with several processes the module is wrapped again whenever its sizes have changed."""
    net = network()
    model = wrap(net)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    schedule = graphprune.Schedule(0.5, begin=2, end=6, every=2, budget="macs")
    pruner = schedule.attach(model, optimizer, torch.zeros(1, 3, 6, 6).double())
    pruned = 0
    for step, (x, y) in enumerate(batches(rank, ranks)):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if spoil is not None:
            spoil(rank, step, net)
        if pruner.step():
            model, pruned = wrap(net), pruned + 1
    assert pruned > 1
    return net, optimizer, pruner


def shapes(net) -> list:
    return [tuple(parameter.shape) for parameter in net.parameters()]


# ---- what the processes do; they are started by name, so that these stand at the top ------------------------------


def together(rank: int, folder: str) -> None:
    net, optimizer, pruner = train(rank, 2, DistributedDataParallel)
    saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict()["state"], "pruner": pruner.state_dict()}
    torch.save(saved, Path(folder) / f"{rank}.pt")


def differ(rank: int, folder: str) -> None:
    """Each process has scores of its own; what the first one says counts."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    schedule = graphprune.Schedule(0.5, kind="one-shot", criterion="random", seed=rank, verify=False)
    assert schedule.attach(net, optimizer, torch.zeros(1, 3, 6, 6).double()).step()
    torch.save({"net": net.state_dict(), "plan": graphprune.plan_of(net).kept}, Path(folder) / f"{rank}.pt")


def fail(rank: int, folder: str) -> None:
    """One process cannot prune: all of them say so, and nothing has changed anywhere."""

    def spoil(own: int, step: int, net: nn.Module) -> None:
        if own == 1 and step == 1:
            net[0].weight.grad = torch.full_like(net[0].weight, float("nan"))

    before = shapes(network())
    try:
        train(rank, 2, DistributedDataParallel, spoil)
    except (WeightsError, TrainingError) as error:
        torch.save({"error": f"{type(error).__name__}: {error}"}, Path(folder) / f"{rank}.pt")
    assert before == shapes(network())


def forget(rank: int, folder: str) -> None:
    """The loop goes on with the wrapper of before."""
    net = network()
    model = DistributedDataParallel(nn.Sequential(net, nn.Linear(5, 2).double()))  # the pruned module is a part of it
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    pruner = graphprune.Schedule(0.5, kind="one-shot").attach(net, optimizer, torch.zeros(1, 3, 6, 6).double())
    assert pruner.step()
    try:
        model(torch.zeros(1, 3, 6, 6).double())
    except TrainingError as error:
        torch.save({"error": str(error)}, Path(folder) / f"{rank}.pt")
    DistributedDataParallel(net)(torch.zeros(1, 3, 6, 6).double()).sum().backward()


def resume(rank: int, folder: str) -> None:
    """Both processes go on from the checkpoint of one."""
    saved = torch.load(Path(folder) / "saved.pt", weights_only=True)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    schedule = graphprune.Schedule(0.5, begin=2, end=6, every=2, budget="macs")
    pruner = schedule.attach(net, optimizer, torch.zeros(1, 3, 6, 6).double())
    pruner.load_state_dict(saved["pruner"])
    net.load_state_dict(saved["net"])
    DistributedDataParallel(net)
    torch.save({"net": net.state_dict()}, Path(folder) / f"{rank}.pt")


def accelerated(rank: int, folder: str) -> None:
    """The loop of accelerate, which wraps the module and gives each process its batches."""
    if importlib.util.find_spec("accelerate") is None:
        return torch.save({"net": None}, Path(folder) / f"{rank}.pt")
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    net = network()
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), 1e-2))
    schedule = graphprune.Schedule(0.5, begin=2, end=6, every=2, budget="macs")
    pruner = schedule.attach(net, optimizer, torch.zeros(1, 3, 6, 6).double())
    for x, y in batches(rank, 2):
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
        if pruner.step():
            model = accelerator.prepare_model(net)
    torch.save({"net": net.state_dict()}, Path(folder) / f"{rank}.pt")


def lightning(rank: int, folder: str) -> None:
    """The Trainer of Lightning wraps the module again."""
    if importlib.util.find_spec("pytorch_lightning") is None:
        return torch.save({"net": None}, Path(folder) / f"{rank}.pt")
    define_missing_operators()
    import pytorch_lightning

    class Lit(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    schedule = graphprune.Schedule(0.5, begin=2, end=6, every=2, budget="macs")
    callback = schedule.lightning("net", torch.zeros(1, 3, 6, 6).double())
    model = Lit()
    trainer = pytorch_lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], use_distributed_sampler=False,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(list(batches(rank, 2)), batch_size=None))
    callback.pruner.finish()
    torch.save({"net": model.net.state_dict()}, Path(folder) / f"{rank}.pt")


BODIES = (together, differ, fail, forget, resume, accelerated, lightning)


def enter(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        ACCELERATE_USE_CPU="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",
    )
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        for body in BODIES:
            body(rank, str(Path(folder) / body.__name__))
            dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What both processes have saved, by what they did: they are started once for all of it."""
    folder = tmp_path_factory.mktemp("processes")
    for body in BODIES:
        (folder / body.__name__).mkdir()
    net, _, pruner = train(0, 1, lambda net: net)
    torch.save({"net": net.state_dict(), "pruner": pruner.state_dict()}, folder / "resume" / "saved.pt")
    path = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:  # the processes import this file by its name
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])]))
        mp.spawn(enter, (str(folder),), nprocs=2)
    return {
        body.__name__: [torch.load(folder / body.__name__ / f"{rank}.pt", weights_only=False) for rank in range(2)]
        for body in BODIES
    }


# ---- the tests -----------------------------------------------------------------------------------------------------


def test_two_processes_do_what_one_does(saved) -> None:
    first, second = saved["together"]
    net, optimizer, pruner = train(0, 1, lambda net: net)
    assert sum(p.numel() for p in net.parameters()) < 0.8 * sum(p.numel() for p in network().parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(first["net"][name], second["net"][name]), name
        assert torch.allclose(first["net"][name], tensor, rtol=1e-7, atol=1e-9), name
    for number, state in optimizer.state_dict()["state"].items():
        assert torch.allclose(first["optimizer"][number]["exp_avg_sq"], state["exp_avg_sq"], rtol=1e-6, atol=1e-12)
    assert first["pruner"] == second["pruner"] and first["pruner"]["count"] == pruner.count
    apart = copy.deepcopy(network())
    assert shapes(pruner.plan.apply(apart)) == shapes(net)


@pytest.mark.parametrize("loop", ["accelerated", "lightning"])
def test_other_loops_do_the_same(saved, loop) -> None:
    first, second = saved[loop]
    if first["net"] is None:
        pytest.skip("accelerate or pytorch-lightning is not installed")
    net, _, _ = train(0, 1, lambda net: net)
    for name, tensor in net.state_dict().items():
        assert torch.equal(first["net"][name], second["net"][name]), name
        assert torch.allclose(first["net"][name], tensor, rtol=1e-7, atol=1e-9), name


def test_the_first_process_decides(saved) -> None:
    first, second = saved["differ"]
    for name, tensor in first["net"].items():
        assert torch.equal(tensor, second["net"][name])
    alone = network()
    schedule = graphprune.Schedule(0.5, kind="one-shot", criterion="random", seed=1, verify=False)
    schedule.attach(alone, torch.optim.SGD(alone.parameters(), 0.1), torch.zeros(1, 3, 6, 6).double()).step()
    own, common = graphprune.plan_of(alone).kept, first["plan"]
    assert any(  # left alone, the second process would have done something else
        own.get(name, {}).get(axis) is None or list(own[name][axis].flat) != list(kept.flat)
        for name, axes in common.items()
        for axis, kept in axes.items()
    )


def test_where_one_process_cannot_prune_none_does(saved) -> None:
    first, second = saved["fail"]
    assert first["error"].startswith(
        "TrainingError: process 1 could not prune, so none of them did. There: WeightsError"
    )
    assert second["error"].startswith("WeightsError: the gradient of 0.weight is NaN")


def test_a_wrapper_of_before_refuses_to_run(saved) -> None:
    for found in saved["forget"]:
        assert "wrap the module again" in found["error"]


def test_all_processes_go_on_from_a_checkpoint(saved) -> None:
    net, _, _ = train(0, 1, lambda net: net)
    for found in saved["resume"]:
        assert all(torch.equal(tensor, found["net"][name]) for name, tensor in net.state_dict().items())
