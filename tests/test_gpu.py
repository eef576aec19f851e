"""What the other tests see on a processor, on an NVIDIA GPU: pruning, recovery, training, 2:4 weights."""

import copy

import pytest
import torch
from torch import nn

import graphprune
from calibration import batches
from helpers import randomise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

IMAGES = (3, 12, 12)


class Residual(nn.Module):
    """A stem, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.first, self.norm = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.second, self.last = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))
        return self.head(x.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    randomise(model)
    return model.eval()


@pytest.fixture(autouse=True)
def exact_products(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def on(device: str, data: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.to(device) for x in data]


@pytest.mark.parametrize("criterion", ["l2", "fpgm", "taylor", "fisher", "wanda", "reconstruction"])
def test_the_same_channels_go_as_on_a_processor(criterion) -> None:
    plans = []
    data = batches(2, 32, *IMAGES)
    for device in ("cpu", "cuda"):
        model = network().to(device)
        loss = (lambda outputs, _: outputs.square().mean()) if criterion in ("taylor", "fisher") else None
        options = {} if criterion in ("l2", "fpgm") else {"data": on(device, data)}
        options |= {"loss": loss} if loss else {}
        slim = graphprune.optimize(
            model, 0.4, criterion=criterion, example_inputs=torch.zeros(1, *IMAGES, device=device), **options
        )
        assert all(tensor.device.type == device for tensor in slim.state_dict().values())
        assert sum(p.numel() for p in slim.parameters()) < 0.65 * sum(p.numel() for p in model.parameters())
        plans.append(graphprune.plan_of(slim).kept)
    kept = [{(name, axis) for name, axes in plan.items() for axis in axes} for plan in plans]
    assert kept[0] == kept[1]
    for name, axes in plans[0].items():
        for axis, own in axes.items():
            assert (torch.as_tensor(own) == torch.as_tensor(plans[1][name][axis])).all(), (name, axis)


@pytest.mark.parametrize("method", [True, "bias", "batch_norm"])
def test_recovery_comes_closer_on_new_inputs(method) -> None:
    model, data = network().cuda().train(), on("cuda", batches(4, 64, *IMAGES))
    for x in 10 * data:  # statistics that belong to the data
        model(x)
    model.eval()
    options = {"data": data, "example_inputs": torch.zeros(1, *IMAGES, device="cuda")}
    fresh = batches(6, 64, *IMAGES)[-1].cuda()
    with torch.no_grad():
        plain, recovered = (
            (
                graphprune.optimize(model, 0.4, criterion="wanda", recover=recover, **options)(fresh) - model(fresh)
            ).norm()
            for recover in (False, method)
        )
    assert recovered < 0.9 * plain


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, 1e-3, capturable=True),
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, fused=True),
    ],
    ids=["sgd", "adam-capturable", "adamw-fused"],
)
def test_training_goes_on_with_the_state_of_what_stays(make) -> None:
    model = network().cuda().train()
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cuda", init_scale=2.0**30)
    average = torch.optim.swa_utils.AveragedModel(model)
    pruner = graphprune.Schedule(0.4, begin=3, end=9, every=3, budget="macs").attach(
        model, optimizer, torch.zeros(1, *IMAGES, device="cuda"), ema=average, scaler=scaler
    )
    before = sum(parameter.numel() for parameter in model.parameters())
    for seed in range(12):
        x = batches(1, 16, *IMAGES)[0].cuda() + 0.01 * seed
        with torch.autocast("cuda", torch.float16):
            loss = model(x).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.step()
        average.update_parameters(model)
        for parameter, state in optimizer.state.items():
            for name, tensor in state.items():
                if isinstance(tensor, torch.Tensor) and tensor.dim():
                    assert tensor.shape == parameter.shape and tensor.device == parameter.device, name
    pruner.finish()
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.8 * before
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert scaler.get_scale() < 2.0**30, "the scaler had nothing to do"
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_semi_structured_weights_compute_what_masks_do(criterion) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).cuda().eval()
    data = {} if criterion == "magnitude" else {"data": [torch.randn(64, 256, device="cuda") for _ in range(3)]}
    example = torch.randn(1, 256, device="cuda")
    sparse = graphprune.optimize(model, structure="2:4", criterion=criterion, example_inputs=example, **data)
    half = copy.deepcopy(sparse).half()
    packed = graphprune.to_semi_structured(half)
    assert [type(packed[at].weight.data).__name__[:21] for at in (0, 2)] == ["SparseSemiStructuredT"[:21]] * 2
    x = torch.randn(128, 256, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        exact, found, moved = sparse(x.float()), packed(x).float(), packed(x + 1).float()
    assert (found - exact).abs().max() < 5e-3 * exact.abs().max()
    assert (moved - found).abs().max() > 0.1 * exact.abs().max()
    assert (model(x.float()) - exact).abs().max() > 0.05 * exact.abs().max(), "nothing was masked"


def test_masks_hold_while_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 144, 10)).cuda()
    sparse = graphprune.optimize(
        model.eval(), 0.6, structure="unstructured", example_inputs=torch.zeros(1, *IMAGES, device="cuda")
    )
    masks = graphprune.masks_of(sparse)
    held = graphprune.hold_masks(sparse).train()
    optimizer = torch.optim.SGD(held.parameters(), 0.1, momentum=0.9)
    before = [parameter.detach().clone() for parameter in held.parameters()]
    for x in on("cuda", batches(4, 16, *IMAGES)):
        optimizer.zero_grad()
        held(x).square().mean().backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, held.parameters(), strict=True))
    done = graphprune.finalize(held)
    for name, kept in masks.kept.items():
        weight = done.state_dict()[name]
        assert (weight[~torch.as_tensor(kept).to(weight.device).reshape(weight.shape)] == 0).all()
