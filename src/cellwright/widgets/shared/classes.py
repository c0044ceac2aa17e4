"""Classes of cells: the classifiers to choose from, and the tasks that give cells their classes."""

from dataclasses import replace
from pathlib import Path

from cellwright.core.data import Image, Result
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.models.classifier import spec

SETTINGS = ("classes", "classifier")  # what classification writes into the provenance


def classifiers() -> list[tuple[str, str]]:
    """Return title and name of every classifier on the shelf.

    Examples
    --------
    ``[("blood: RBC, WBC, Platelet", "blood")]``
    """
    entries = spec.classifiers()
    return [(classifier_title(entry.name, entry.spec.classes), entry.name) for entry in entries]


def classifier_title(name: str, classes: tuple[str, ...]) -> str:
    """Return the name of a classifier with its classes."""
    return f"{name}: {', '.join(classes)}"


def classified_task(
    result: Result, image: Image, classifier: str | Path, engine: EngineSettings
) -> Task[Result]:
    """Return a result whose cells have classes; imports torch in the thread that runs it."""
    yield Progress("classes", 0, 1)
    from cellwright.inference.classify import classify

    return (yield from classify(result, image, classifier, engine))


def unclassified(result: Result) -> Result:
    """Return a result without the classes of its cells."""
    if result.cells.classes is None:
        return result
    settings = {name: value for name, value in result.provenance.settings.items() if name not in SETTINGS}
    return replace(
        result,
        cells=replace(result.cells, classes=None),
        provenance=replace(result.provenance, settings=settings),
    )
