"""Calibration data with something to find out: few causes behind many numbers, and a little noise."""

from collections.abc import Iterator

import torch


def structured(samples: int, *shape: int, seed: int = 0, rank: int = 4, noise: float = 0.05) -> torch.Tensor:
    """(samples, *shape): mixtures of `rank` fixed patterns; the same patterns for every seed, other mixtures."""
    patterns = torch.randn(rank, *shape, generator=torch.Generator().manual_seed(1234))
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(samples, rank, generator=generator)
    return torch.einsum("nr,r...->n...", mixture, patterns) + noise * torch.randn(samples, *shape, generator=generator)


def batches(number: int, samples: int, *shape: int) -> list[torch.Tensor]:
    """Several batches of structured inputs."""
    return [structured(samples, *shape, seed=seed) for seed in range(number)]


def tokens(number: int, samples: int = 8, vocabulary: int = 40) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of sentences of various lengths."""
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        yield {"input_ids": torch.randint(0, vocabulary, (samples, 8 + 3 * (seed % 3)), generator=generator)}
