"""`nn.MultiheadAttention` that can lose heads: the same layer with its own `forward`.

The layer of torch derives the width of a head from its embedding width, so neither can change. This one keeps the
width of a head as a number of its own and takes the number of heads from its weights. A model is traced with it, and
a slim copy gets it where attention was pruned; names and meaning of parameters, arguments and results stay the same.
"""

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


class SlimAttention(torch.nn.MultiheadAttention):
    """An `nn.MultiheadAttention` whose heads need not add up to the embedding width."""

    scale: float

    @property
    def num_heads(self) -> int:
        """As many as the weights hold."""
        return _sizes(self)["num_heads"]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The same as in `nn.MultiheadAttention`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask: give attn_mask too")
        is_causal = is_causal and key_padding_mask is None and not need_weights
        batched = query.dim() == 3
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = (self._heads(item, batched) for item in self._projected(query, key, value, batched))
        extra = int(self.bias_k is not None) + int(self.add_zero_attn)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        mask = None if is_causal else self._mask(attn_mask, key_padding_mask, q, extra)
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            result = weights @ v
        else:
            result = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=self.scale)
        output = self.out_proj(result.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, batched: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values of all heads side by side, in the order of axes of the inputs."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if weight is not None and query is key and key is value:
            q, k, v = F.linear(query, weight, bias).chunk(3, -1)
        else:
            own = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            weights = own if weight is None else weight.chunk(3)
            biases = (None, None, None) if bias is None else bias.chunk(3)
            q, k, v = (F.linear(*item) for item in zip((query, key, value), weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k, v = self._appended(k, self.bias_k, batched), self._appended(v, self.bias_v, batched)
        return q, k, v

    def _appended(self, x: Tensor, extra: Tensor, batched: bool) -> Tensor:
        """One more position of the sequence, the same for all samples."""
        if not batched:
            return torch.cat([x, extra[0]], 0)
        if self.batch_first:
            return torch.cat([x, extra.expand(x.shape[0], -1, -1)], 1)
        return torch.cat([x, extra.expand(-1, x.shape[1], -1)], 0)

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """(batch, heads, length, width of a head)."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor, extra: int) -> Tensor | None:
        """Both masks as one that is added to the scores; positions that this layer appended are seen by all."""
        parts = []
        if mask is not None:
            parts.append(mask if mask.dim() == 2 else mask.unflatten(0, (q.shape[0], -1)))
        if padding is not None:
            parts.append(padding[:, None, None])
        result = None
        for part in parts:
            if part.dtype == torch.bool:
                part = torch.zeros_like(part, dtype=q.dtype).masked_fill(part, float("-inf"))
            result = part if result is None else result + part
        return F.pad(result, (0, extra)) if result is not None and extra else result


def open_attention(module: torch.nn.Module) -> None:
    """Let every `nn.MultiheadAttention` in a module that is ours alone show its operations, in place."""
    parts = [part for part in module.modules() if type(part) is torch.nn.MultiheadAttention]
    for part in parts:
        part.__class__, part.scale = SlimAttention, part.head_dim**-0.5
        part._qkv_same_embed_dim = False  # torch has faster paths that count on the usual sizes: they ask this
    for encoder in module.modules() if parts else ():
        if isinstance(encoder, torch.nn.TransformerEncoder):
            encoder.use_nested_tensor = False  # and this


def fit_attention(module: torch.nn.Module) -> None:
    """Derive the integers of attention layers from their weights, in place; all are opened where one has changed."""
    layers = [part for part in module.modules() if isinstance(part, torch.nn.MultiheadAttention)]
    sizes = [(part, _sizes(part)) for part in layers]
    changed = [(part, new) for part, new in sizes if any(getattr(part, key) != size for key, size in new.items())]
    if changed:
        open_attention(module)
    for part, new in changed:
        vars(part).update(new)


def _sizes(part: Any) -> dict[str, int]:
    """The sizes that the weights of one layer tell; nothing where they are parametrized."""
    packed, apart = (part._parameters.get(name) for name in ("in_proj_weight", "q_proj_weight"))
    if packed is None and apart is None:
        return {}
    inner, embed = apart.shape if packed is None else (packed.shape[0] // 3, packed.shape[1])
    kdim, vdim = (embed, embed) if packed is not None else (part.k_proj_weight.shape[1], part.v_proj_weight.shape[1])
    return {"embed_dim": embed, "kdim": kdim, "vdim": vdim, "num_heads": inner // part.head_dim}
