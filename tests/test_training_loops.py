"""Schedules in the loops of others: Lightning, transformers, accelerate. Each against a plain loop."""

import warnings

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import TrainingError
from helpers import define_missing_operators

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(2))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)
    )


def schedule() -> graphprune.Schedule:
    return graphprune.Schedule(0.5, begin=2, end=6, every=2, budget="macs")


def batches():
    return [(X[start : start + 8], Y[start : start + 8]) for start in range(0, 32, 8)] * 2


def plain(steps: int = 8, accumulate: int = 1) -> nn.Module:
    """The loop that the others are compared with."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    pruner = schedule().attach(net, optimizer, X[:1])
    for number, (x, y) in enumerate(batches()[:steps]):
        (nn.functional.cross_entropy(net(x), y) / accumulate).backward()
        if (number + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            pruner.step()
    if accumulate == 1 and steps == 8:
        assert pruner.finish() is not None and len(net[0].weight) < 32
    return net


def equal(left: nn.Module, right: nn.Module) -> bool:
    states = left.state_dict(), right.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(
        tensor.shape == states[1][name].shape and torch.equal(tensor, states[1][name])
        for name, tensor in states[0].items()
    )


# ---- Lightning -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lightning():
    define_missing_operators()  # it imports torchvision, where that is installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")


def lit(lightning):
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    return Lit()


def trainer(lightning, folder, callback, **options):
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", devices=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lightning.Trainer(
            **{
                "max_epochs": 1,
                "enable_checkpointing": False,
                "default_root_dir": folder,
                "callbacks": [callback],
                **quiet,
                **options,
            }
        )


def fit(lightning, folder, model, callback, resume=None, **options):
    made = trainer(lightning, folder, callback, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(model, torch.utils.data.DataLoader(batches(), batch_size=None), ckpt_path=resume)
    return made


def test_lightning_prunes_as_a_plain_loop_does(lightning, tmp_path) -> None:
    model, callback = lit(lightning), schedule().lightning("net", X[:1])
    fit(lightning, tmp_path, model, callback)
    assert equal(model.net, plain())
    assert callback.pruner.finish() is graphprune.plan_of(model.net)


def test_lightning_counts_steps_of_the_optimizer(lightning, tmp_path) -> None:
    model, callback = lit(lightning), schedule().lightning("net", X[:1])
    fit(lightning, tmp_path, model, callback, accumulate_grad_batches=2)
    assert callback.pruner.count == 4
    assert equal(model.net, plain(accumulate=2))


def test_lightning_goes_on_from_a_checkpoint(lightning, tmp_path) -> None:
    first, callback = lit(lightning), schedule().lightning("net", X[:1])
    keep = lightning.callbacks.ModelCheckpoint(tmp_path, "middle", every_n_train_steps=4, save_top_k=1, monitor=None)
    fit(lightning, tmp_path, first, callback, callbacks=[callback, keep], enable_checkpointing=True, max_steps=4)
    pruned = len(first.net[0].weight)
    second, again = lit(lightning), schedule().lightning("net", X[:1])
    fit(lightning, tmp_path, second, again, resume=tmp_path / "middle.ckpt")  # its loader begins anew: the same batches
    assert again.pruner.count == 8 and equal(second.net, plain())
    assert len(second.net[0].weight) < pruned < 32
    assert second.on_load_checkpoint.__func__ is lightning.LightningModule.on_load_checkpoint


def test_lightning_names_what_it_cannot_find(lightning, tmp_path) -> None:
    with pytest.raises(TrainingError, match="Lit has no module 'body' to prune; it has net"):
        fit(lightning, tmp_path, lit(lightning), schedule().lightning("body", X[:1]))


# ---- transformers --------------------------------------------------------------------------------------------------


def test_the_trainer_of_transformers_prunes_as_a_plain_loop_does(tmp_path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer of transformers needs")

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x, labels=None):
            logits = self.net(x)
            return {"loss": None if labels is None else nn.functional.cross_entropy(logits, labels), "logits": logits}

    model, callback = WithLoss(), schedule().transformers({"x": X[:1]})
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)] * 2
    arguments = transformers.TrainingArguments(
        tmp_path, per_device_train_batch_size=8, num_train_epochs=1, learning_rate=1e-2, lr_scheduler_type="constant",
        weight_decay=0.01, max_grad_norm=0, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(data)

    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    made = InOrder(model, arguments, train_dataset=data, callbacks=[callback], optimizers=(optimizer, constant))
    made.train()
    assert equal(model.net, plain())
    assert callback.pruner.finish() is graphprune.plan_of(model)
    made.state.global_step = 3
    with pytest.raises(TrainingError, match="cannot go on from a checkpoint"):
        callback.on_train_begin(arguments, made.state, None, model=model, optimizer=optimizer)


# ---- accelerate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    model, optimizer, loader = accelerator.prepare(
        net, optimizer, torch.utils.data.DataLoader(batches(), batch_size=None)
    )
    pruner = schedule().attach(accelerator.unwrap_model(model, keep_fp32_wrapper=True), optimizer, X[:1])
    for x, y in loader:
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    assert pruner.finish() is not None and len(net[0].weight) < 32
    if precision == "no":
        assert equal(net, plain())
    else:
        assert "forward" in vars(net) and model(X).dtype == torch.float32  # the wrapper is there again
        assert next(iter(net.parameters())).dtype == torch.float32
