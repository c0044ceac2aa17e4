"""The card of a fine-tuned model: what it learned from, how well, and how it came about."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellwright.files.atomic import write_text
from cellwright.files.dataset.folder import Dataset
from cellwright.models.checkpoint import CARD


def write_card(
    output: Path,
    title: str,
    parts: tuple[Dataset, Dataset],
    scores: tuple[Mapping[str, float], Mapping[str, float]],
    history: Sequence[Mapping[str, float]],
    notices: Sequence[str],
) -> None:
    """Write ``card.md`` into the folder of a model.

    Parameters
    ----------
    parts
        What it learned from and what it was validated with.
    scores
        Before and after.
    history
        One row for each epoch.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    lines = [f"# {title}", "", *_data(*parts), "", *(f"- {notice}" for notice in notices), ""]
    lines += ["## Scores on the validation images", "", *_scores(*scores), ""]
    lines += ["## Curve", "", *_curve(history), ""]
    write_text(output / CARD, "\n".join(lines))


def _data(taught: Dataset, judged: Dataset) -> list[str]:
    names = [", ".join(item.name for item in part.items[:8]) for part in (taught, judged)]
    more = ["" if len(part) <= 8 else f" and {len(part) - 8} more" for part in (taught, judged)]
    return [
        f"Fine-tuned on images of `{taught.folder.name}`: {names[0]}{more[0]}.",
        f"Validated with: {names[1]}{more[1]}.",
    ]


def _scores(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    rows = [f"| {name} | {before[name]:.3f} | {after[name]:.3f} |" for name in before if name in after]
    note = "`memory` is the score on simulated images, of kinds that the model knew before."
    return ["| figure | before | after |", "|---|---|---|", *rows, "", note]


def _curve(history: Sequence[Mapping[str, float]]) -> list[str]:
    rows = [
        f"| {epoch['step']:.0f} | {epoch.get('loss', float('nan')):.3f} | {epoch['score']:.3f} |"
        for epoch in history
    ]
    return ["| step | loss | score |", "|---|---|---|", *rows]
