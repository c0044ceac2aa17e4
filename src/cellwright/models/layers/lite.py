"""The network of the ``lite`` presets: an encoder that starts from ImageNet, and the light gated decoder."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from cellwright.models.layers import trunk
from cellwright.models.layers.efficientnet_lite import EfficientNetLite, plan_of
from cellwright.models.layers.trunk import FEATURES, GatedDecoder, HeadedNetwork, TrunkNetwork
from cellwright.models.spec import ModelSpec

LITE = "lite"  # name of the preset
DIVISOR = 32
HALO = 256  # farther pixels change the maps by less than 0.01; the receptive field is 480
LAST_DEPTH = 4  # blocks at stride 32; each looks 64 pixels further on every side
DECODER_WIDTHS = (96, 64, 40, FEATURES)  # at strides 16, 8, 4 and 2


class LiteNetwork(HeadedNetwork):
    """EfficientNet-lite0 to stride 32 with a gated decoder to half resolution; 2.8 million parameters."""

    encoder: EfficientNetLite

    def __init__(self, head: nn.Module, in_channels: int = 3) -> None:
        encoder = EfficientNetLite(plan_of("lite0", LAST_DEPTH), in_channels)
        super().__init__(encoder, GatedDecoder(encoder.widths, DECODER_WIDTHS, depths=(2, 2, 2, 1)), head)


def trained_specs(
    family: str,
    title: str,
    map_channels: dict[str, int],
    *,
    small_px: tuple[float, float],
    lite_px: tuple[float, float],
    options: Mapping[str, float] | None = None,
) -> dict[str, ModelSpec]:
    """Return the specs of a family's presets that are trained here: ``small``, from scratch, and ``lite``.

    ``small_px`` and ``lite_px`` are the diameters of cells that each takes without rescaling.
    """
    small = ModelSpec(
        family=family,
        preset="small",
        title=title,
        in_channels=3,
        map_channels=map_channels,
        divisor=trunk.DIVISOR,
        halo=trunk.HALO,
        diameter_px=26.0,
        diameter_range_px=small_px,
        options=options or {},
    )
    lite = replace(small, preset=LITE, divisor=DIVISOR, halo=HALO, diameter_range_px=lite_px)
    return {"small": small, LITE: lite}


def network_of(preset: str, head: nn.Module, in_channels: int) -> HeadedNetwork:
    """Return the network of a preset, ``lite`` or one that learns from scratch, with a head."""
    if preset == LITE:
        return LiteNetwork(head, in_channels)
    return TrunkNetwork(head, in_channels)
