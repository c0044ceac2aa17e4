"""Mix Transformer, the encoder of SegFormer.

Source: Xie et al., SegFormer, NeurIPS 2021, arXiv:2105.15203. Written from the paper; no weights are used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Self-attention whose keys and values are taken on a grid coarser by ``reduction``."""

    def __init__(self, channels: int, n_heads: int, reduction: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        source = tokens
        if self.reduce is not None:
            source = _to_tokens(self.reduce(_to_image(tokens, height, width)))
            source = self.reduce_norm(source)
        query = self._heads(self.query(tokens))
        key, value = (self._heads(part) for part in self.key_value(source).chunk(2, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, Y * X, C / heads)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:-1], self.n_heads, -1).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Two linear layers with a 3 x 3 depthwise convolution between them, which tells tokens their place."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, ratio * channels)
        self.depthwise = nn.Conv2d(ratio * channels, ratio * channels, 3, padding=1, groups=ratio * channels)
        self.project = nn.Linear(ratio * channels, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        spread = self.depthwise(_to_image(self.expand(tokens), height, width))
        projected: Tensor = self.project(functional.gelu(_to_tokens(spread)))
        return projected


class Block(nn.Module):
    """Attention, then feed-forward, each normalised before, carried around and left out at random."""

    def __init__(self, channels: int, n_heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attention = Attention(channels, n_heads, reduction)
        self.feed_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.feed = MixFeedForward(channels)
        self.drop = drop

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        tokens = tokens + self._maybe(self.attention(self.attention_norm(tokens), height, width))
        return tokens + self._maybe(self.feed(self.feed_norm(tokens), height, width))

    def _maybe(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""
        if not self.training or self.drop == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop
        return branch * kept / (1 - self.drop)


class Stage(nn.Module):
    """An overlapping patch embedding and the blocks that follow it."""

    def __init__(self, n_in: int, channels: int, kernel: int, stride: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(n_in, channels, kernel, stride, kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y / stride, X / stride)."""
        embedded = self.embed(image)
        height, width = embedded.shape[-2:]
        tokens = self.embed_norm(_to_tokens(embedded))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return _to_image(self.norm(tokens), height, width)


class MixTransformer(nn.Module):
    """Mix Transformer: features at stride 4, 8, 16 and 32; b5 unless told otherwise.

    Parameters
    ----------
    in_channels
        Channels of the image.
    depths
        Blocks at each stride.
    widths
        Channels at each stride, multiples of 1, 2, 5 and 8.
    drop
        Probability to leave out the last block in training.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 6, 40, 3),
        widths: Sequence[int] = (64, 128, 320, 512),
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        drops = iter(torch.linspace(0, drop, sum(depths)).tolist())
        shapes = zip(
            (in_channels, *self.widths[:-1]),
            self.widths,
            depths,
            (1, 2, 5, 8),
            (8, 4, 2, 1),
            (7, 3, 3, 3),
            (4, 2, 2, 2),
            strict=True,
        )
        self.stages = nn.ModuleList(
            Stage(
                n_in,
                width,
                kernel,
                stride,
                [Block(width, heads, reduction, next(drops)) for _ in range(depth)],
            )
            for n_in, width, depth, heads, reduction, kernel, stride in shapes
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Float (B, in_channels, Y, X) -> features at stride 4, 8, 16, 32."""
        features, x = [], image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _to_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)


def _to_image(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
