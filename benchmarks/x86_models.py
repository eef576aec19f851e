"""The models of benchmarks/x86_latency.py: networks of torchvision and blocks of transformers, with telling weights."""

from typing import Any

import torch
from torch import Tensor, nn

from common import torchvision_model

IMAGES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "vgg11_bn",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)
TOKENS = 128
# Where the MACs of a model nearly all lie in convolutions.
CONVOLUTIONAL = IMAGES[:9]


class Bert(nn.Module):
    """BERT-base: token numbers in, the last hidden states out."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.model = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (batch, tokens)."""
        return self.model(input_ids=ids).last_hidden_state


class Gpt2(nn.Module):
    """The twelve blocks of GPT-2 small between embedding and head, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        model = GPT2Model(GPT2Config(attn_implementation="eager"))
        self.blocks, self.norm = model.h, model.ln_f

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, width)."""
        mask = torch.full((1, 1, x.shape[1], x.shape[1]), -1e9).triu(1)
        for block in self.blocks:
            x = block(x, attention_mask=mask, use_cache=False)
            x = x[0] if isinstance(x, tuple) else x
        return self.norm(x)


OTHERS: dict[str, Any] = {"bert_base": Bert, "gpt2_blocks": Gpt2}
MODELS = (*IMAGES, *OTHERS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model and one example input; every weight and statistic is random, so that errors show."""
    from helpers import import_torchvision, randomise

    import_torchvision()  # in a way that transformers, which imports it, too, can live with
    if name in IMAGES:
        return randomise(torchvision_model(name)), torch.randn(1, 3, 224, 224)
    torch.manual_seed(0)
    model = randomise(OTHERS[name]().eval())
    if name == "bert_base":
        return model, torch.randint(0, 30522, (1, TOKENS))
    return model, torch.randn(1, TOKENS, 768)
