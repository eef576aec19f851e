"""The distillation loss against the formula, written out in float64."""

import math
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import OptionError, TrainingError


def written_out(student, teacher, labels, temperature, alpha) -> float:
    """Hinton's loss, position by position."""
    student, teacher = student.double().reshape(-1, student.shape[-1]), teacher.double().reshape(-1, teacher.shape[-1])
    labels = None if labels is None else labels.flatten().tolist()
    rows = [row for row in range(len(student)) if labels is None or labels[row] != -100]
    soft = hard = 0.0
    for row in rows:
        p, q = (torch.exp(x[row] / temperature) for x in (teacher, student))
        p, q = p / p.sum(), q / q.sum()
        soft += float((p * (p / q).log()).sum()) / len(rows)
        if labels is not None:
            own = torch.exp(student[row])
            hard -= math.log(float(own[labels[row]] / own.sum())) / len(rows)
    return temperature**2 * soft if labels is None else alpha * temperature**2 * soft + (1 - alpha) * hard


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 7)])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.9), (1.0, 0.3), (2.5, 0.0), (3.0, 1.0)])
def test_the_loss_is_the_formula(shape, labelled, temperature, alpha) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape).double()
    labels = torch.randint(shape[-1], shape[:-1]) if labelled else None
    if labelled and len(shape) == 3:
        labels[0, 1] = -100
    loss = graphprune.distillation(student, teacher, labels, temperature, alpha)
    assert math.isclose(
        float(loss.detach()), written_out(student.detach(), teacher, labels, temperature, alpha), rel_tol=1e-12
    )
    assert torch.autograd.gradcheck(lambda s: graphprune.distillation(s, teacher, labels, temperature, alpha), student)


def test_where_logits_are_found() -> None:
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    expected = graphprune.distillation(logits, teacher)
    for output in (
        SimpleNamespace(logits=logits),
        {"logits": logits},
        OrderedDict(logits=logits),
        (logits, 1),
        [logits],
    ):
        assert torch.equal(graphprune.distillation(output, teacher), expected)
        assert torch.equal(
            graphprune.distillation(
                logits, type(output)(**vars(output)) if isinstance(output, SimpleNamespace) else output
            ),
            expected * 0,
        )
    assert graphprune.distillation(logits.half(), teacher.half()).dtype == torch.float32


def test_outputs_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    outputs = transformers.modeling_outputs.SequenceClassifierOutput(logits=torch.randn(2, 3))
    assert float(graphprune.distillation(outputs, outputs)) == 0


def test_bad_outputs() -> None:
    logits = torch.randn(4, 3)
    for words, student, teacher, labels in (
        ("output of the student, a dict, holds no logits", {"hidden": logits}, logits, None),
        ("output of the teacher, a str, holds no logits", logits, "logits", None),
        ("of the student, a Tensor, holds no logits of shape", logits[0], logits, None),
        (r"logits of shape \(4, 3\), the teacher \(4, 2\)", logits, logits[:, :2], None),
        (r"labels have shape \(3,\); logits of shape \(4, 3\) need \(4,\)", logits, logits, torch.zeros(3).long()),
    ):
        with pytest.raises(TrainingError, match=words):
            graphprune.distillation(student, teacher, labels)
    with pytest.raises(OptionError, match="temperature=0 must be above 0"):
        graphprune.distillation(logits, logits, temperature=0)
    with pytest.raises(OptionError, match="alpha=1.5 between 0 and 1"):
        graphprune.distillation(logits, logits, alpha=1.5)


def test_a_teacher_stays_as_it_is_while_the_model_is_trained_and_pruned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
    x, labels = torch.randn(8, 4), torch.randint(3, (8,))
    teacher, optimizer = graphprune.teacher(model), torch.optim.AdamW(model.parameters(), 0.01)
    expected = model.eval()(x).detach()
    model.train()
    pruner = graphprune.Schedule(0.5, begin=2, kind="one-shot").attach(model, optimizer, x)
    teacher.train()
    for _ in range(4):
        loss = graphprune.distillation(model(x), teacher(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    assert len(model[0].weight) < 16
    assert torch.equal(teacher(x), expected) and not teacher(x).requires_grad and not teacher.model[2].training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
