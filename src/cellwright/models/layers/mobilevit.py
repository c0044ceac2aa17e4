"""A block that joins convolutions with attention over the whole tile, as CellCentroidFormer uses it.

The published MobileViT lets pixels attend to those at the same place of other patches; here, as in
CellCentroidFormer, every pixel attends to every other.

Source: Mehta and Rastegari, MobileViT, ICLR 2022, arXiv:2110.02178; Wagner and Rohr, CellCentroidFormer,
arXiv:2206.00338 (2022).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

N_HEADS = 2
NORM_EPS = 1e-6
DROP = 0.1


class GlobalAttention(nn.Module):
    """Self-attention with two heads, each as wide as the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(channels, 3 * N_HEADS * channels)
        self.project = nn.Linear(N_HEADS * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Float (B, n, C) -> the same."""
        parts = self.query_key_value(tokens).unflatten(-1, (3, N_HEADS, -1))  # (B, n, 3, heads, C)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        drop = DROP if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class TransformerLayer(nn.Module):
    """Attention, then a perceptron, each normalised before and carried around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(channels, eps=NORM_EPS), GlobalAttention(channels))
        self.feed = nn.Sequential(
            nn.LayerNorm(channels, eps=NORM_EPS),
            nn.Linear(channels, 2 * channels),
            nn.SiLU(),
            nn.Dropout(DROP),
            nn.Linear(2 * channels, channels),
            nn.SiLU(),
            nn.Dropout(DROP),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Float (B, n, C) -> the same."""
        tokens = tokens + self.attention(tokens)
        fed: Tensor = tokens + self.feed(tokens)
        return fed


class MobileViTBlock(nn.Module):
    """Convolutions, attention over all pixels, and a convolution that joins the result with the input.

    Parameters
    ----------
    n_in
        Channels that enter.
    channels
        Channels of the tokens, and those that leave.
    n_layers
        Transformer layers.
    """

    def __init__(self, n_in: int, channels: int, n_layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(n_in, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 1), nn.SiLU()
        )
        self.layers = nn.Sequential(*(TransformerLayer(channels) for _ in range(n_layers)))
        self.leave = nn.Sequential(nn.Conv2d(channels, n_in, 1), nn.SiLU())
        self.join = nn.Sequential(nn.Conv2d(2 * n_in, channels, 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y, X)."""
        entered = self.enter(x)
        tokens = self.layers(entered.flatten(2).transpose(1, 2))  # (B, Y * X, C)
        seen = tokens.transpose(1, 2).unflatten(2, entered.shape[2:])
        joined: Tensor = self.join(torch.cat([x, self.leave(seen)], dim=1))
        return joined
