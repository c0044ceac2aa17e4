"""The network of the ``lite`` presets: an encoder that starts from ImageNet, and the light gated decoder."""

from dataclasses import replace

from torch import nn

from cellwright.models.layers.efficientnet_lite import EfficientNetLite, plan_of
from cellwright.models.layers.trunk import FEATURES, GatedDecoder, HeadedNetwork, TrunkNetwork
from cellwright.models.spec import ModelSpec

LITE = "lite"  # name of the preset
DIVISOR = 32
HALO = 256  # farther pixels change the maps by less than 0.01; the receptive field is 480
LAST_DEPTH = 4  # blocks at stride 32; each looks 64 pixels further on every side
DECODER_WIDTHS = (96, 64, 40, FEATURES)  # at strides 16, 8, 4 and 2


class LiteNetwork(HeadedNetwork):
    """EfficientNet-lite0 to stride 32 with a gated decoder to half resolution; 2.8 million parameters.

    Parameters
    ----------
    head
        Features (B, 24, Y/2, X/2) -> maps (B, n, Y, X).
    in_channels
        Channels of the image.
    """

    encoder: EfficientNetLite

    def __init__(self, head: nn.Module, in_channels: int = 3) -> None:
        encoder = EfficientNetLite(plan_of("lite0", LAST_DEPTH), in_channels)
        super().__init__(encoder, GatedDecoder(encoder.widths, DECODER_WIDTHS, depths=(2, 2, 2, 1)), head)


def lite_spec(small: ModelSpec, diameter_range_px: tuple[float, float]) -> ModelSpec:
    """Return the spec of a family's ``lite`` preset: that of its ``small`` one, with this network."""
    return replace(small, preset=LITE, divisor=DIVISOR, halo=HALO, diameter_range_px=diameter_range_px)


def network_of(preset: str, head: nn.Module, in_channels: int) -> HeadedNetwork:
    """Return the network of a preset, ``lite`` or one that learns from scratch, with a head."""
    if preset == LITE:
        return LiteNetwork(head, in_channels)
    return TrunkNetwork(head, in_channels)
