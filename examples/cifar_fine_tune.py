"""A trained CIFAR-10 ResNet-20 with half of its multiply-adds, fine-tuned: `python cifar_fine_tune.py [STEPS]`.

Needs trained weights and images: GRAPHPRUNE_DATA names a folder with `cifar10_models/resnet20_cifar10.pt`,
`resnet_cifar.py`, `graphdata.py` and the images that it reads.
"""

import os
import sys

import torch
from torch import nn

import graphprune

steps = int(sys.argv[1]) if sys.argv[1:] else 200
data = os.environ.get("GRAPHPRUNE_DATA") or sys.exit("GRAPHPRUNE_DATA must name a folder with weights and images")
sys.path.insert(0, data)
from graphdata import cifar10, nchw  # noqa: E402
from resnet_cifar import resnet  # noqa: E402

torch.manual_seed(0)
dense = resnet(20, f"{data}/cifar10_models/resnet20_cifar10.pt")
train, test = (tuple(map(torch.from_numpy, cifar10(part))) for part in ("train", "test_a"))
held_out, answers = torch.from_numpy(nchw(test[0][:1000].numpy())), test[1][:1000]


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The share of right answers on 1000 images that were never trained on."""
    return (model.eval()(held_out).argmax(1) == answers).float().mean().item()


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random training images, flipped and shifted by up to four pixels."""
    index = torch.randint(0, len(train[0]), (size,))
    x = nn.functional.pad(torch.from_numpy(nchw(train[0][index].numpy())), (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2,)).tolist()
    x = x[:, :, down : down + 32, right : right + 32]
    return torch.where(torch.rand(size, 1, 1, 1) < 0.5, x.flip(3), x), train[1][index].long()


# Half of the multiply-adds go: the channels whose readers can do best without them. What is left is refitted.
unlabelled = [batch(128)[0] for _ in range(2)]
options = {"budget": "macs", "criterion": "reconstruction", "recover": True, "data": unlabelled}
slim = graphprune.optimize(dense, sparsity=0.5, example_inputs=held_out[:1], **options)
before, after = graphprune.plan_of(slim).report["macs"]
print(f"{after / before:.1%} of the MACs left; accuracy {accuracy(dense):.1%} -> {accuracy(slim):.1%} without training")

# An ordinary module of the same class: any training loop will do. This one also learns from what the dense one says.
teacher = graphprune.teacher(dense)
optimizer = torch.optim.SGD(slim.parameters(), lr=0.005, momentum=0.9, weight_decay=5e-4, nesterov=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    images, labels = batch(64)
    loss = graphprune.distillation(slim.train()(images), teacher(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"accuracy {accuracy(slim):.1%} after {steps} steps")

graphprune.save(slim, "resnet20_half.safetensors")
again = graphprune.load_weights(resnet(20), "resnet20_half.safetensors")
assert accuracy(again) == accuracy(slim)
print(f"resnet20_half.safetensors: {sum(p.numel() for p in again.parameters()):,} parameters")
