"""How a simulated image looks: every knob of the simulator in one value, and the dice that set them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cellwright.core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Style:
    """The knobs of a simulated image; lengths in pixels of the y and x axes.

    Brightness is relative to an ordinary cell, which has 1. ``draw_style`` sets all of them at random.
    """

    diameter_px: float = 24.0  # mean diameter of a cell
    coverage: float = 0.2  # part of the image that cells cover; crowding stops short of what does not fit
    clustering: float = 0.4  # chance that a cell is put down beside another one
    spacing: float = 0.85  # smallest distance of two centres over the sum of their radii
    patchiness: float = 0.3  # 0 spreads cells evenly; 1 leaves parts of the image empty
    overlap: bool = False  # later cells lie on top and light adds up; else they press against each other
    seam: float = 0.5  # how dark the line between cells that press against each other is, 0 to 1
    size_spread: float = 0.15  # sigma of the log of the diameter
    elongation: float = 1.3  # long over short axis
    alignment: float = 0.0  # 1 turns all cells the same way
    roughness: float = 0.05  # waviness of the outline
    notches: float = 0.15  # chance of a kidney or two-lobed shape
    spikes: float = 0.0  # number of protrusions
    dividing: float = 0.03  # chance of a condensed plate, or of two daughters that are a cell each
    brightness_spread: float = 0.3  # sigma of the log of the brightness
    texture: float = 0.25  # contrast of the chromatin
    texture_px: float = 3.0  # its grain size
    holes: float = 1.0  # nucleoli for each cell
    spots: float = 0.5  # bright spots for each cell
    rim: float = 0.1  # contrast of the nuclear envelope
    dome: float = 0.3  # 1 makes cells brightest in the middle like a ball
    body: float = 0.0  # brightness of the cytoplasm
    haze: float = 0.1  # of out-of-focus light
    background: float = 0.05  # of the empty image
    debris: float = 0.1  # bright specks for each cell; never part of the truth
    ghosts: float = 0.05  # out-of-focus blobs for each cell; never part of the truth
    unevenness: float = 0.2  # relative change of the illumination over the image
    blur_px: float = 1.0  # sigma of the point spread function
    z_step: float = 3.0  # distance of planes in pixels
    z_blur: float = 1.0  # sigma of the point spread function along z, in planes
    photons: float = 300.0  # of an ordinary cell (shot noise)
    read_noise: float = 0.01  # of the camera, in units of brightness
    bits: int = 8  # 8 or 16
    gain: float = 0.5  # the camera saturates at a brightness of ``1 / gain``
    offset: float = 0.02  # of the camera, 0 to 1
    variant: str = "plain"  # which kind of the look: see ``simulate``

    def __post_init__(self) -> None:
        _check_diameter(self.diameter_px)
        if not 0.0 <= self.coverage <= 1.0:
            raise SettingsError(f"coverage must be from 0 to 1; got {self.coverage}.")
        if self.bits not in (8, 16):
            raise SettingsError(f"bits must be 8 or 16; got {self.bits}.")


def draw_style(look: str, rng: np.random.Generator, *, diameter_px: float | None = None) -> Style:
    """Return a random style of a look, so that no two images are alike (domain randomisation).

    ``look`` is "fluorescence", "phase", "tissue" or "brightfield"; without ``diameter_px`` the mean
    diameter is drawn from 8 to 60 px.

    Wide random appearances instead of one careful imitation: Tobin et al. 2017, "Domain randomization
    for transferring deep neural networks from simulation to the real world", doi:10.1109/IROS.2017.8202133.
    """
    if look not in _DRAWS:
        raise SettingsError(f"look must be one of {', '.join(_DRAWS)}; got {look!r}.")
    if diameter_px is None:
        diameter_px = _log_uniform(rng, 8.0, 60.0)
    diameter = float(diameter_px)
    _check_diameter(diameter)
    return _DRAWS[look](diameter, rng)


def _check_diameter(diameter: float) -> None:
    if not 3.0 <= diameter <= 1000.0:
        raise SettingsError(f"diameter_px must be from 3 to 1000; got {diameter}.")


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sometimes(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    return float(rng.uniform(low, high)) if rng.random() < chance else 0.0


def _elongation(excess: float, diameter: float) -> float:
    """Return long over short axis, limited so that a cell stays about 4 px wide."""
    return float(1.0 + min(excess, max((diameter / 4.0) ** 2 / 2.0 - 1.0, 0.0)))


def _photons(rng: np.random.Generator, diameter: float, low: float, high: float) -> float:
    """Return photons for each pixel; small cells get more, since fewer pixels must show them."""
    return _log_uniform(rng, low * max(20.0 / diameter, 1.0), high)


def _fluorescence(diameter: float, rng: np.random.Generator) -> Style:
    crowded = rng.random() < 0.3
    return Style(
        diameter_px=diameter,
        coverage=rng.uniform(0.35, 0.7) if crowded else _log_uniform(rng, 0.03, 0.35),
        clustering=rng.uniform(0.0, 0.8),
        spacing=rng.uniform(0.68, 1.0),
        patchiness=_sometimes(rng, 0.6, 0.2, 1.0),
        overlap=bool(rng.random() < 0.35),
        seam=_sometimes(rng, 0.6, 0.2, 1.0),
        size_spread=rng.uniform(0.05, 0.35),
        elongation=_elongation(rng.gamma(1.6, 0.22), diameter),
        alignment=_sometimes(rng, 0.3, 0.5, 1.0),
        roughness=rng.uniform(0.01, 0.09),
        notches=_sometimes(rng, 0.6, 0.05, 0.6),
        dividing=_sometimes(rng, 0.6, 0.02, 0.15),
        brightness_spread=_log_uniform(rng, 0.08, 0.85),
        texture=_log_uniform(rng, 0.05, 0.6),
        texture_px=max(1.2, diameter * rng.uniform(0.05, 0.22)),
        holes=_sometimes(rng, 0.5, 0.3, 4.0),
        spots=_sometimes(rng, 0.4, 0.3, 8.0),
        rim=rng.normal(0.0, 0.25),
        dome=rng.uniform(0.0, 1.0),
        body=_sometimes(rng, 0.35, 0.03, 0.45),
        haze=_sometimes(rng, 0.6, 0.02, 0.4),
        background=_log_uniform(rng, 0.01, 0.4),
        debris=_sometimes(rng, 0.5, 0.02, 0.6),
        ghosts=_sometimes(rng, 0.4, 0.02, 0.3),
        unevenness=_sometimes(rng, 0.7, 0.05, 0.8),
        blur_px=max(0.4, min(diameter * rng.uniform(0.02, 0.1), 4.0)),
        z_step=rng.uniform(1.0, 5.0),
        z_blur=rng.uniform(0.5, 1.5),
        photons=_photons(rng, diameter, 20.0, 20000.0),
        read_noise=_log_uniform(rng, 0.0005, 0.05),
        bits=int(rng.choice([8, 16])),
        gain=_log_uniform(rng, 0.05, 0.9),
        offset=_sometimes(rng, 0.7, 0.0, 0.1),
        variant=str(rng.choice(["plain", "plain", "plain", "plain", "colonies", "fibres"])),
    )


def _tissue(diameter: float, rng: np.random.Generator) -> Style:
    return Style(
        diameter_px=diameter,
        coverage=_log_uniform(rng, 0.06, 0.55),
        clustering=rng.uniform(0.2, 0.8),
        spacing=rng.uniform(0.72, 1.0),
        patchiness=rng.uniform(0.2, 1.0),
        overlap=bool(rng.random() < 0.5),
        size_spread=rng.uniform(0.1, 0.35),
        elongation=_elongation(rng.gamma(2.0, 0.3), diameter),
        alignment=_sometimes(rng, 0.6, 0.5, 1.0),
        roughness=rng.uniform(0.02, 0.1),
        notches=_sometimes(rng, 0.5, 0.05, 0.4),
        dividing=_sometimes(rng, 0.4, 0.01, 0.05),
        brightness_spread=rng.uniform(0.1, 0.5),
        texture=rng.uniform(0.1, 0.7),
        texture_px=max(1.2, diameter * rng.uniform(0.05, 0.15)),
        holes=_sometimes(rng, 0.5, 0.3, 2.0),
        spots=_sometimes(rng, 0.5, 0.3, 4.0),
        rim=rng.uniform(0.0, 0.9),
        dome=rng.uniform(0.0, 0.4),
        body=rng.uniform(0.0, 0.4),
        haze=_sometimes(rng, 0.5, 0.02, 0.2),
        background=rng.uniform(0.05, 0.6),
        debris=_sometimes(rng, 0.4, 0.02, 0.3),
        ghosts=_sometimes(rng, 0.5, 0.02, 0.15),
        unevenness=_sometimes(rng, 0.5, 0.02, 0.25),
        blur_px=max(0.5, min(diameter * rng.uniform(0.02, 0.07), 3.0)),
        photons=_photons(rng, diameter, 700.0, 10000.0),
        read_noise=_log_uniform(rng, 0.002, 0.02),
        variant=str(rng.choice(["stroma", "stroma", "epithelium", "smear"])),
    )


def _phase(diameter: float, rng: np.random.Generator) -> Style:
    variant, stretch, roughness = "round", (1.2, 0.15), (0.01, 0.05)
    if rng.random() < 0.6:
        variant, stretch, roughness = "spread", (2.0, 0.5), (0.06, 0.16)
    return Style(
        diameter_px=diameter,
        coverage=_log_uniform(rng, 0.05, 0.6),
        clustering=rng.uniform(0.0, 0.8),
        spacing=rng.uniform(0.8, 1.1),
        patchiness=_sometimes(rng, 0.5, 0.2, 1.0),
        size_spread=rng.uniform(0.1, 0.35),
        elongation=_elongation(rng.gamma(*stretch), diameter),
        alignment=_sometimes(rng, 0.3, 0.5, 1.0),
        roughness=rng.uniform(*roughness),
        notches=_sometimes(rng, 0.5, 0.1, 0.5),
        spikes=rng.uniform(0.5, 4.0) if variant == "spread" else 0.0,
        dividing=_sometimes(rng, 0.6, 0.02, 0.25),
        brightness_spread=rng.uniform(0.1, 0.4),
        texture=rng.uniform(0.2, 0.9),
        texture_px=max(1.3, diameter * rng.uniform(0.04, 0.12)),
        holes=_sometimes(rng, 0.6, 0.5, 6.0),
        spots=_sometimes(rng, 0.6, 0.5, 8.0),
        rim=rng.uniform(0.2, 1.0),
        dome=rng.uniform(0.2, 1.0),
        haze=rng.uniform(0.5, 1.0),
        background=rng.uniform(0.3, 0.6),
        debris=_sometimes(rng, 0.6, 0.05, 1.0),
        unevenness=_sometimes(rng, 0.7, 0.05, 0.5),
        blur_px=max(0.5, min(diameter * rng.uniform(0.01, 0.04), 2.0)),
        photons=_photons(rng, diameter, 600.0, 8000.0),
        read_noise=_log_uniform(rng, 0.002, 0.02),
        bits=int(rng.choice([8, 16])),
        gain=rng.uniform(0.5, 1.0),
        variant=variant,
    )


def _brightfield(diameter: float, rng: np.random.Generator) -> Style:
    return Style(
        diameter_px=diameter,
        coverage=_log_uniform(rng, 0.04, 0.5),
        clustering=rng.uniform(0.0, 0.8),
        spacing=rng.uniform(0.8, 1.05),
        patchiness=_sometimes(rng, 0.5, 0.2, 1.0),
        overlap=bool(rng.random() < 0.3),
        size_spread=rng.uniform(0.05, 0.3),
        elongation=_elongation(rng.gamma(1.2, 0.2), diameter),
        alignment=_sometimes(rng, 0.2, 0.5, 1.0),
        roughness=rng.uniform(0.01, 0.07),
        notches=_sometimes(rng, 0.4, 0.05, 0.4),
        dividing=_sometimes(rng, 0.4, 0.01, 0.08),
        brightness_spread=rng.uniform(0.05, 0.35),
        texture=rng.uniform(0.05, 0.5),
        texture_px=max(1.3, diameter * rng.uniform(0.05, 0.2)),
        holes=_sometimes(rng, 0.5, 0.3, 2.0),
        spots=_sometimes(rng, 0.5, 0.3, 3.0),
        rim=rng.uniform(0.2, 1.0),
        dome=rng.uniform(0.0, 1.0),
        body=rng.uniform(0.05, 0.5),
        background=rng.uniform(0.4, 0.85),
        debris=_sometimes(rng, 0.6, 0.02, 0.5),
        ghosts=_sometimes(rng, 0.3, 0.02, 0.1),
        unevenness=_sometimes(rng, 0.7, 0.05, 0.4),
        blur_px=max(0.5, min(diameter * rng.uniform(0.01, 0.06), 2.5)),
        photons=_photons(rng, diameter, 600.0, 8000.0),
        read_noise=_log_uniform(rng, 0.002, 0.02),
        bits=int(rng.choice([8, 8, 16])),
        gain=rng.uniform(0.6, 1.0),
        variant=str(rng.choice(["stained", "refractile", "blood"])),
    )


_DRAWS: Mapping[str, Callable[[float, np.random.Generator], Style]] = {
    "fluorescence": _fluorescence,
    "phase": _phase,
    "tissue": _tissue,
    "brightfield": _brightfield,
}
