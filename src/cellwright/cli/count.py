"""``cellwright count``: images in; a table of counts, label images and tables of cells out.

Files that are named are counted one after another, a large one block by block; the images of folders each
once, also those that come while it watches.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cellwright.cli.flags import (
    changed_by,
    expanded,
    read_settings,
    refuse_foreign,
    refuse_idle,
    with_settings,
)
from cellwright.cli.interrupts import INTERRUPTED, heeded_interrupts
from cellwright.cli.output import Table, as_given, echo_notices, quick_loading, run_with_bar
from cellwright.core.data import Image
from cellwright.core.errors import ReadError, SettingsError, error_line, repeated
from cellwright.files.atomic import as_stored, check_writable
from cellwright.files.folders.image_list import ListedImage, list_images
from cellwright.files.folders.results import ImageOutcome, check_output
from cellwright.files.folders.written import FileFacts, changed_meanwhile, facts_of
from cellwright.files.images import read_images
from cellwright.files.zarr import images_inside, is_zarr
from cellwright.inference.image_count import (
    CountChoices,
    channels_to_count,
    counted_task,
    streamed_task,
    write_alone,
)
from cellwright.inference.recipe import (
    PARTS,
    Recipe,
    changed_in,
    load_recipe,
    parse_pixel_size,
    parse_window,
    save_recipe,
)
from cellwright.inference.settings import (
    COUNT_RULES,
    EngineSettings,
    FlagRule,
    FolderSettings,
    InputFiles,
    StreamSettings,
)
from cellwright.models import registry, store
from cellwright.ops.geometry.axes import COLOUR_NAMES, has_colours
from cellwright.ops.measure.filters import check_texts
from cellwright.ops.measure.settings import AnalysisSettings

LOOK_EVERY_S = 2.0  # for new images; one whose file still changes waits
FAMILY_SETTINGS: tuple[type[Any], ...] = tuple(family.settings for family in registry.FAMILIES.values())
COUNT_SETTINGS: tuple[type[Any], ...] = (EngineSettings, *FAMILY_SETTINGS)
SETTINGS = (*COUNT_SETTINGS, AnalysisSettings, InputFiles, FolderSettings, StreamSettings)
FOLDER = "a folder of images"
RULES = (
    *COUNT_RULES,
    FlagRule(("with_files",), needs=("channels", "channel", "each_channel", "measure", "positive")),
    FlagRule(("pattern", "watch"), needs=(FOLDER,)),
)


Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, .zarr folders, folders of these, or addresses of Zarr stores (https, s3).",
        callback=expanded,
        show_default=False,
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        help="Name or folder of a model; give several to average them.  "
        f"[default: {registry.DEFAULT_FAMILY}]",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder for <image>.labels.tif (or .density.tif), <image>.cells.csv and <image>.json."),
]
Axes = Annotated[
    str | None, typer.Option(help="Axes of the images, as letters of TCZYX; read from the file or guessed.")
]
Classifier = Annotated[
    str | None, typer.Option(help="Name or folder of a classifier that gives each cell its class.")
]
Window = Annotated[
    str | None,
    typer.Option(help="Part to count: first and end pixel of each axis, such as 0:3,10:200,30:400 of ZYX."),
]
PixelSize = Annotated[
    str | None, typer.Option(help="Micrometres per pixel of ZYX, such as 2,0.5,0.5; read from the file.")
]
Report = Annotated[
    Path | None, typer.Option(help="HTML file for a report: picture, number, plots, settings.")
]
Saved = Annotated[
    Path | None,
    typer.Option("--settings", help="File of settings to begin with; flags given here override it."),
]
Save = Annotated[Path | None, typer.Option(help="File to save all settings to, for --settings.")]
EachChannel = Annotated[
    bool, typer.Option("--each-channel", help="Count each channel separately, or those of --channels.")
]
WithFiles = Annotated[
    list[str],
    typer.Option(
        "--with",
        help="Image file of the same pixels, whose channels are added after those of the image. "
        "May be repeated; {name} is the name of the image.",
        show_default=False,
    ),
]


@with_settings(*SETTINGS)
def count(
    context: typer.Context,
    images: Images,
    model: Models = [],  # noqa: B006 - typer copies it
    output: Output = None,
    axes: Axes = None,
    classifier: Classifier = None,
    window: Window = None,
    pixel_size: PixelSize = None,
    report: Report = None,
    xlsx: Annotated[bool, typer.Option("--xlsx", help="Also write <image>.xlsx.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write <image>.cells.parquet.")] = False,
    saved: Saved = None,
    save_settings: Save = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    each_channel: EachChannel = False,
    with_files: WithFiles = [],  # noqa: B006 - typer copies it
    **flags: Any,
) -> None:
    """Count the cells of images, or of the images in folders.

    Prints how many there are.
    """
    folders = read_settings(FolderSettings, flags)
    in_folders = folders != FolderSettings() or (output is not None and has_folders(images))
    if not in_folders:
        prepare_output(images, output)
    recipe = Recipe(models=tuple(model or [registry.DEFAULT_FAMILY]))
    if saved is not None:
        recipe = replace(load_recipe(saved, model), image="")
    there = list(changed_in(recipe))
    if any(path.is_dir() and not is_zarr(path) for path in images):
        there.append(FOLDER)
    refuse_idle(context, RULES, there)
    named: dict[str, Any] = {"axes": axes, "classifier": classifier, "with_files": tuple(with_files)}
    named["each_channel"] = each_channel
    if window is not None:
        named["window"] = parse_window(window)
    if pixel_size is not None:
        named["pixel_size_um"] = parse_pixel_size(pixel_size)
    recipe = replace(recipe, **{name: value for name, value in named.items() if value})
    files: dict[str, Any] = {"output": output, "report": report, "xlsx": xlsx, "parquet": parquet}
    choices = replace(make_choices(flags, recipe), **files, n_images=len(images))
    if save_settings is not None:
        save_recipe(save_settings, choices.recipe)
    table = Table(images, choices.title, as_json=as_json)
    if in_folders:
        count_in_folders(images, choices, folders, table)
    else:
        count_all(images, choices, table)


def count_all(images: list[Path], choices: CountChoices, table: Table) -> None:
    """Count image after image; one that fails is named, the others are still counted."""
    n_failed = 0
    taken: set[tuple[Path, str]] = set()
    for done, path in enumerate(images):
        try:
            count_one(path, choices, table, taken, label=f"[{done + 1}/{len(images)}] {path.name}")
        except KeyboardInterrupt:
            typer.echo(f"Cancelled; {done - n_failed} of {len(images)} images were counted.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - whatever ails one image, the others are still counted
            n_failed += 1
            typer.echo(f"error: {as_given(path)}: {error_line(error)}", err=True)
    if n_failed:
        typer.echo(f"{n_failed} of {len(images)} images failed.", err=True)
        raise typer.Exit(1)


def make_choices(flags: dict[str, Any], recipe: Recipe) -> CountChoices:
    """Return models and settings, those of a recipe changed by flags, checked before an image is read."""
    parts = {part: changed_by(flags, getattr(recipe, part)) for part in PARTS}
    with quick_loading(), heeded_interrupts():
        from cellwright.inference.context import load_models
        from cellwright.inference.device import choose_device

        choose_device(parts["engine"].device)
        loaded = load_models(recipe.models)
    family = registry.get(loaded[0].spec.family)
    refuse_foreign(flags, family.settings, *(kind for kind in SETTINGS if kind not in FAMILY_SETTINGS))
    settings = changed_by(flags, recipe.settings or family.settings())
    recipe = replace(recipe, settings=settings, **parts)
    if family.gives != "instances" and recipe.needs_cells:
        raise SettingsError(
            f"Measurements, filters and classes are of single cells; {family.name} gives only their "
            f"{family.gives}. Choose another model, or leave them out; --regions and --window count parts."
        )
    if recipe.classifier:
        check_texts(recipe.analysis.keep, {"class": store.classifier_of(recipe.classifier).classes})
    return CountChoices(loaded, recipe)


def prepare_output(images: list[Path], output: Path | None) -> None:
    """Make the output folder, so that a place that cannot be written stops the run before it starts."""
    if output is None:
        return
    twice = repeated(path.stem.casefold() for path in images)
    if twice:
        raise SettingsError(
            f"Images that go to one output folder must differ in name; {', '.join(twice)} occurs more than "
            "once. Count them in separate runs."
        )
    check_writable(output)


def count_one(
    path: Path, choices: CountChoices, table: Table, taken: set[tuple[Path, str]], *, label: str
) -> None:
    """Count the images in one file, write the files of each and print its row.

    ``taken`` are folders and names of what the run has written; those of these images are added.
    """
    before = None
    if not path.is_dir():  # the pixels of a Zarr folder are read later, and its files may be many
        before = facts_of(path)
    for image in map(choices.recipe.joined, read_images(path, choices.recipe.axes or None)):
        for part, own in channels_to_count(image, choices):
            take_name(path, part, own, taken)
            count_image(path, part, own, table, before, label=label)


def take_name(path: Path, image: Image, choices: CountChoices, taken: set[tuple[Path, str]]) -> None:
    """Raise SettingsError before an image is counted whose files would replace those of an earlier one."""
    place = choices.output or Path()
    if not choices.has_files:
        if not choices.streams(image):
            return
        place = path.parent.absolute()  # files go beside the image
    name = as_stored(image.name, place)
    if (place, name) in taken:
        raise SettingsError(
            f"Images whose files go to one folder must differ in name; {image.name} occurs more than once. "
            "Count them in separate runs, each into a folder of its own."
        )
    taken.add((place, name))


def count_image(
    path: Path, image: Image, choices: CountChoices, table: Table, before: FileFacts | None, *, label: str
) -> None:
    """Count an image, the only one of its file or one of several that have names of their own.

    ``before`` is what the file was before it was read; None where its pixels are yet to be read.
    """
    shown = path.with_name(image.name) if image.name != path.stem else path
    channel = choices.recipe.engine.channel
    if channel is not None and channel < len(COLOUR_NAMES) and has_colours(image):
        echo_notices(shown, (f"Counted in its {COLOUR_NAMES[channel]} alone, channel {channel}.",))
    if choices.streams(image):
        streamed = run_with_bar(streamed_task(path, image, choices), label)
        echo_notices(shown, streamed.notices)
        table.show(shown, streamed.result, streamed.analysis)
        return
    before = before or facts_of(path)
    counted = run_with_bar(counted_task(image, choices), label)
    if facts_of(path) != before:
        raise changed_meanwhile(path)
    echo_notices(shown, counted.notices)
    try:
        if choices.has_files:
            echo_notices(shown, write_alone(image, counted, choices))
    finally:  # the count is known, whatever became of the files
        table.show(shown, counted.result, counted.analysis)


def has_folders(paths: Sequence[Path]) -> bool:
    """Return whether there is a folder of images among the paths, or a plate."""
    return any(path.is_dir() and not (is_zarr(path) and not images_inside(path)) for path in paths)


def count_in_folders(
    paths: Sequence[Path], choices: CountChoices, settings: FolderSettings, table: Table
) -> None:
    """Count the images of folders; those that earlier runs have counted are told without counting again."""
    _refuse_single(choices)
    output = choices.output
    if output is None:
        raise SettingsError("Counting a folder writes its results to another; name it with --output.")
    check_output(output, paths)
    outcomes = _Outcomes(table)
    try:
        if settings.watch:
            _watch(paths, output, choices, settings, outcomes)
        outcomes.count(list_images(paths, settings.pattern, settings.plate, output), output, choices)
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command continues where it stopped.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if outcomes.n_failed:
        typer.echo(f"{outcomes.n_failed} of the images failed.", err=True)
        raise typer.Exit(1)


def _refuse_single(choices: CountChoices) -> None:
    """Raise SettingsError where something is chosen that is for images named by themselves."""
    if choices.recipe.each_channel:
        raise SettingsError("In folders one channel is counted after the other. Name each by --channel.")
    if choices.recipe.stream != StreamSettings():
        raise SettingsError(
            "In folders, only large images are counted block by block, by themselves. Leave --stream, "
            "--memory, --workers and --scheduler out, or count large images by their own names."
        )


class _Outcomes:
    """Reports each image once, however often the folder is looked at, and again when it is recounted."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._told: dict[str, str] = {}  # of each image why it failed, '' where it did not

    @property
    def n_failed(self) -> int:
        return sum(map(bool, self._told.values()))

    def count(self, images: Sequence[ListedImage], output: Path, choices: CountChoices) -> None:
        from cellwright.inference.folder import count_folder

        task = count_folder(
            images,
            output,
            choices,
            on_outcome=self._tell,
            on_notice=lambda notice: echo_notices(output, (notice,)),
        )
        run_with_bar(task, f"{len(images)} images", stages=("earlier results", "images"))

    def _tell(self, outcome: ImageOutcome) -> None:
        is_news = not outcome.error and not outcome.was_done
        if is_news or self._told.get(outcome.image.name) != outcome.error:
            self._told[outcome.image.name] = outcome.error
            self._table.show_outcome(outcome)


def _watch(
    paths: Sequence[Path],
    output: Path,
    choices: CountChoices,
    settings: FolderSettings,
    outcomes: _Outcomes,
) -> NoReturn:
    """Count what comes and what changes, until Ctrl-C; files that still grow wait for the next look."""
    before: dict[Path, FileFacts] = {}
    counted: dict[Path, FileFacts] = {}
    while True:
        images: tuple[ListedImage, ...] = ()
        with suppress(ReadError):  # nothing has come yet
            images = list_images(paths, settings.pattern, settings.plate, output)
        now = {image.path: facts_of(image.path) for image in images}
        images = tuple(image for image in images if before.get(image.path) == now[image.path])
        there = {image.path: now[image.path] for image in images}
        if images and there != counted:
            outcomes.count(images, output, choices)
            counted = there
        before = now
        time.sleep(LOOK_EVERY_S)
