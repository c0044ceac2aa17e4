"""Annotated layers as a dataset to train on: in memory to be looked at, on disk to be trained on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.annotation.export import cut_image, spans_of, suffix_of
from cellwright.core.data import CHANNEL, Annotation, Image, Labels, without_channels
from cellwright.core.errors import ReadError, WrongLayerError
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.append import Entry, append
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.ops.label_changes import Box
from cellwright.ops.labels import as_int32, numbered, relabel_frames
from cellwright.widgets.shared.cells.regions import WINDOW, counted_boxes, pixel_box
from cellwright.widgets.shared.coordinates import (
    channels_of,
    check_unmoved,
    full_resolution,
    in_pixels,
    in_shape,
    plane_of,
)
from cellwright.widgets.shared.edited_layers import EDITED, engine_of, is_image, likely_image, metadata_of
from cellwright.widgets.shared.layer_factory import features_by_number, texts_of
from cellwright.widgets.shared.layer_io import ANNOTATION, CHANNEL_INDEX, REGIONS_NAME, image_of

HERE = Path("the layers of this viewer")  # folder of a dataset that has none


@dataclass(frozen=True, slots=True)
class Pair:
    """An image layer and the Labels or Points that annotate it."""

    image: ImageLayer
    annotation: Layer

    @property
    def title(self) -> str:
        """What to call it in a list."""
        title = f"{self.image.name} + {self.annotation.name}"
        return f"{title} (as counted)" if self.is_as_counted else title

    @property
    def key(self) -> str:
        """What tells it from others: an annotation belongs to one image."""
        return str(self.annotation.unique_id)

    @property
    def is_as_counted(self) -> bool:
        """Whether a model found these cells and nobody has corrected them since."""
        own = metadata_of(self.annotation)
        return "source" in own and ANNOTATION not in own and not own.get(EDITED)

    @property
    def channel(self) -> int | None:
        """Number of the one channel that the cells were found or drawn in; None where that is not told."""
        own = metadata_of(self.annotation)
        engine = engine_of(own)
        number: int | None = None if engine.get("channels") else engine.get("channel")
        return own.get(CHANNEL_INDEX, number)  # as we have written it


@dataclass(frozen=True, slots=True)
class LayerItem(Item):
    """An annotated image that is held in memory."""

    picture: Image = field(kw_only=True)
    labels: Labels | None = None
    points: NDArray[np.float32] | None = None
    named: Mapping[int, str] = field(default_factory=dict)  # classes by label, or by place of the point

    def image(self) -> Image:
        """Return the image alone."""
        return self.picture

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N."""
        expected = self.picture.label_shape
        if self.labels is None or self.labels.shape != expected:
            got = "points" if self.labels is None else self.labels.shape
            raise ReadError(
                f"Labels must have the image's shape {expected}; got {got} for {self.name!r}. Choose the "
                "layer that belongs to this image."
            )
        return self.picture, relabel_frames(self.labels, self.picture.label_axes)

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image and what is known of its cells."""
        if self.points is None:
            return Item.annotated(self)
        shape = self.picture.label_shape
        if len(shape) != 2:
            raise ReadError(f"Points belong to 2D images; {self.name!r} has shape {shape}. Use Labels.")
        plane, classes = (shape[0], shape[1]), None
        if self.classes:
            classes = self._numbered(range(len(self.points)))
        return self.picture, Annotation(plane, self.points, None, None, classes, self.is_complete)

    def classes_of(self, labels: Labels) -> NDArray[np.int16]:
        """Return the class of each cell of these labels, which :meth:`read` has renumbered; -1 for none."""
        assert self.labels is not None
        numbers = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        numbers[labels] = self.labels.reshape(labels.shape)
        return self._numbered(numbers[1:].tolist())

    def _numbered(self, cells: Iterable[int]) -> NDArray[np.int16]:
        numbers = {"": -1, **{name: number for number, name in enumerate(self.classes)}}
        return np.array([numbers[self.named.get(cell, "")] for cell in cells], np.int16)


def is_annotation(layer: Layer) -> TypeGuard[LabelsLayer | Points]:
    """Return whether a layer may hold the cells of an image, and is no preview."""
    return isinstance(layer, LabelsLayer | Points) and not layer.metadata.get("preview")


def pairs(layers: Iterable[Layer]) -> list[Pair]:
    """Return each annotation of the layers of a viewer with its image, those that lie on top first."""
    layers = list(layers)
    found = []
    for layer in reversed(layers):
        if is_annotation(layer):
            image = _image_of(layer, layers)
            if image is not None:
                found.append(Pair(image, layer))
    return found


def _image_of(layer: Layer, layers: Sequence[Layer]) -> ImageLayer | None:
    own, images = metadata_of(layer), [one for one in layers if is_image(one)]
    for image in images:
        if own.get("source") == str(image.unique_id):
            return None if own.get("is_preview") else image
    fitting = [one for one in images if isinstance(layer, Points) or plane_of(one) == plane_of(layer)]
    if not fitting:
        return images[0] if len(images) == 1 else None
    return likely_image(layer, fitting, layers)


def dataset_of(
    chosen: Sequence[Pair], layers: Iterable[Layer], *, is_complete: bool, own_channel: bool = False
) -> Dataset:
    """Return annotated layers as a dataset in memory; call it in the GUI thread.

    The annotation is complete in the rectangles of the viewer's layers of complete regions, without any in
    what was counted, where that is a part of the image, else in the whole where it ``is_complete``. Slices
    and frames of a stack that have such rectangles are images of their own. With ``own_channel`` that channel
    alone of several is taken that the cells were found or drawn in.

    WrongLayerError where nothing was chosen, or two annotations of one channel of an image.
    """
    first: dict[tuple[ImageLayer, int | None], Pair] = {}
    for pair in chosen:
        other = first.setdefault((pair.image, pair.channel), pair)
        if other is not pair:
            raise WrongLayerError(
                f"{other.annotation.name!r} and {pair.annotation.name!r} both annotate {pair.image.name!r}, "
                "whose cells would be used twice. Choose one of them."
            )
    if not chosen:
        raise WrongLayerError(
            "Training needs an image layer and its Labels or Points; none is chosen. Annotate some cells, "
            "tick them in the list, or choose a dataset folder."
        )
    layers = list(layers)
    items: list[Item] = []
    for pair in chosen:
        image = image_of(pair.image)
        if own_channel:
            image = one_channel(image, pair.channel)
        image = replace(image, name=_free_name(image.name, [item.name for item in items]))
        items += _items_of(pair, image, layers, is_complete=is_complete)
    return Dataset(HERE, tuple(items))


def _items_of(pair: Pair, image: Image, layers: Sequence[Layer], *, is_complete: bool) -> list[Item]:
    """Return an image with its annotation; of a stack in whose parts every cell is annotated, each part."""
    labels, points, named = _annotation_of(pair, image)
    counted = counted_boxes(pair.annotation, image)
    spans = spans_of(_regions_of(pair, image, layers) or counted or (), image.label_shape[:-2])
    items: list[Item] = []
    for span, regions in sorted(spans.items()):
        name, picture, part = image.name, image, labels
        if span != tuple((0, n) for n in image.label_shape[:-2]):
            name += suffix_of(image, span)
            picture = replace(cut_image(image, span), name=name, levels=())
            if labels is not None and labels.shape == image.label_shape:
                part = labels[tuple(slice(*ends) for ends in span)]
        items.append(
            LayerItem(
                name,
                "train",
                "",
                Path(name),
                Path("masks" if points is None else "points") / name,
                tuple(sorted({*named.values()})),
                is_complete=bool(regions) or (is_complete and counted is None),
                regions=tuple(regions),
                labels=part,
                points=points,
                picture=picture,
                named=named,
            )
        )
    return items


def one_channel(image: Image, number: int | None) -> Image:
    """Return a channel of an image as an image; the whole where it has no such channel, or colours."""
    axis = image.axes.find(CHANNEL)
    if number is None or axis < 0 or image.axes.endswith(CHANNEL) or number >= image.shape[axis]:
        return image
    data = image.data[(slice(None),) * axis + (number,)]
    axes, names = without_channels(image.axes), image.channel_names[number : number + 1]
    return replace(image, data=data, axes=axes, channel_names=names, channel_colors=(), levels=())


def _annotation_of(
    pair: Pair, image: Image
) -> tuple[Labels | None, NDArray[np.float32] | None, dict[int, str]]:
    """Return labels in the shape of the image without its channels, or points in its pixels, and classes.

    WrongLayerError where labels that do not tell their image lie elsewhere than this one.
    """
    layer = pair.annotation
    rows, named = features_by_number(layer), {}
    if "class" in rows:
        cells = zip(rows.index.tolist(), texts_of(rows["class"]), strict=True)
        named = {number: name for number, name in cells if name}
    if isinstance(layer, Points):
        points = in_pixels(layer.data, layer, pair.image)[:, -2:].astype(np.float32)
        size = np.array(image.label_shape[-2:])
        inside = ((points >= -0.5) & (points < size - 0.5)).all(axis=1)
        kept = enumerate(np.flatnonzero(inside).tolist())
        named = {place: named[number] for place, number in kept if number in named}
        return None, points[inside].clip(0, size - 1), named
    drawn = np.array(full_resolution(layer))
    labels = as_int32(drawn)
    if drawn.max(initial=0) > labels.max(initial=0):  # they were renumbered
        numbers = enumerate(numbered(drawn)[0].tolist(), start=1)
        named = {place: named[number] for place, number in numbers if number in named}
    return _whole_labels(labels, pair, image.label_shape), None, named


def _whole_labels(labels: Labels, pair: Pair, expected: tuple[int, ...]) -> Labels:
    """Return labels in the shape of their image, also where a part was counted; as they are if none fits."""
    own = metadata_of(pair.annotation)
    labels = in_shape(labels, expected)  # an axis of length one may stand for the channels
    if labels.shape == expected:
        if own.get("source") != str(pair.image.unique_id):
            check_unmoved(pair.annotation, pair.image)
    elif labels.ndim == len(expected) and WINDOW in own:
        whole = np.zeros(expected, np.int32)
        part = whole[tuple(slice(start, stop) for start, stop in own[WINDOW])]
        if part.shape == labels.shape:  # others have come in the place of those that were counted
            part[...] = labels
            return whole
    return labels


def _regions_of(pair: Pair, image: Image, layers: Sequence[Layer]) -> list[Box]:
    """Return the boxes of the labels of an image that the viewer's layers of complete regions show."""
    shape, axis = image.label_shape, channels_of(pair.image)[0].axis
    others = {str(layer.unique_id) for layer in layers} - {str(pair.image.unique_id)}
    boxes: list[Box] = []
    for layer in layers:
        if not isinstance(layer, Shapes) or not layer.name.startswith(REGIONS_NAME):
            continue
        if metadata_of(layer).get("source") in others:
            continue  # they were drawn in another image
        in_all = range(max(pair.image.ndim - layer.ndim, 0))
        n_in_all = sum(place != axis for place in in_all)
        for vertices in layer.data:
            box = pixel_box(in_pixels(vertices, layer, pair.image, axis), shape)
            boxes.append((*(slice(0, n) for n in shape[:n_in_all]), *box[n_in_all:]))
    return _joined([box for box in boxes if all(part.start < part.stop for part in box)])


def _joined(boxes: list[Box]) -> list[Box]:
    """Return boxes of which the same one in neighbouring slices or frames, where each is drawn, is one."""
    n_lead = len(boxes[0]) - 2 if boxes else 0
    for axis in reversed(range(n_lead)):
        rows = [(*box[:axis], *box[axis + 1 :], box[axis]) for box in boxes]
        rows.sort(key=lambda row: [(part.start, part.stop) for part in row])
        found: list[Box] = []
        for row in rows:
            if found and found[-1][:-1] == row[:-1] and found[-1][-1].stop >= row[-1].start:
                stop = max(found[-1][-1].stop, row[-1].stop)
                found[-1] = (*row[:-1], slice(found[-1][-1].start, stop))
            else:
                found.append(row)
        boxes = [(*row[:axis], row[-1], *row[axis:-1]) for row in found]
    return boxes


def write_task(dataset: Dataset, folder: Path) -> Task[Path]:
    """Write a dataset that is held in memory as a training folder, and return it.

    WriteError where the folder cannot be written.
    """
    for index, item in enumerate(dataset.items):
        yield Progress("write", index, len(dataset.items), f"keeping {item.name}")
        image, truth = item.read() if item.has_masks else item.annotated()
        classes = None
        if item.classes and not isinstance(truth, Annotation):
            classes = item.classes_of(truth)
        entry = Entry(
            image,
            truth,
            classes,
            item.classes,
            name=item.name,
            regions=item.regions,
            is_complete=item.is_complete,
            group=item.group,
        )
        append(folder, entry)
    return folder


def _free_name(name: str, taken: Sequence[str]) -> str:
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._")[:60] or "image"
    names = (plain, *(f"{plain}_{n}" for n in range(2, len(taken) + 3)))
    used = {one.casefold() for one in taken}  # as some file systems tell names apart
    return next(one for one in names if one.casefold() not in used)
