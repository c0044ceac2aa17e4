"""Shapes beside an annotation: what a tool is drawing, the cell in review, the complete regions."""

from itertools import islice, product
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import ArrayLike, NDArray

from cellwright.core.errors import CellwrightError
from cellwright.ops.geometry.boxes import corners_of
from cellwright.ops.label_changes import Box
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.shared.cells.regions import pixel_box
from cellwright.widgets.shared.layer_factory import COLOUR
from cellwright.widgets.shared.layer_io import (
    REGIONS_NAME,
    add_overlay,
    clear_shapes,
    screen_px,
    take_away,
)

OVERLAY_NAME = "marks"  # of the layer, as it has always been
DRAWN_COLOUR = "#ffe066"
REVIEW_COLOUR = "#ffffff"
REVIEW_MARGIN_PX = 4.0
MOST_SLICES = 256  # of a region that are drawn
SAME_SIZE_PX = 0.01
NEW = -1  # region of a shape that the user has drawn


class Overlay:
    """A layer for what is being drawn and for the cell in review; made when it is first needed."""

    def __init__(self, view: AnnotationLayer) -> None:
        self._view = view
        self._layer: Shapes | None = None
        self._drawn: NDArray[np.float64] | None = None
        self._cell: Box | None = None

    @property
    def layer(self) -> Shapes | None:
        """The layer, None while there has been none."""
        if self._layer in self._view.viewer.layers:
            return self._layer
        return None

    def show_drawn(self, points: ArrayLike | None) -> None:
        """Show the line (N, D) or the point (1, D) that a tool is drawing; None takes it away."""
        if points is None and self._drawn is None:
            return
        self._drawn = None if points is None else np.atleast_2d(np.asarray(points, float))
        self._show()

    def show_cell(self, box: Box | None) -> None:
        """Frame the cell in review; None takes the frame away."""
        if box == self._cell:
            return
        self._cell = box
        self._show()

    def close(self) -> None:
        """Take the layer away."""
        take_away(self._view.viewer, self._layer)
        self._layer = None

    def _show(self) -> None:
        if self.layer is None:
            if self._drawn is None and self._cell is None:
                return
            self._layer = add_overlay(self._view.viewer, self._view.layer, OVERLAY_NAME, {})
        layer, width = self._layer, 2 * screen_px(self._view.viewer, self._view.layer)
        assert layer is not None
        clear_shapes(layer)
        if self._drawn is not None:
            vertices = self._view.in_layer(self._drawn)
            style = {"edge_color": DRAWN_COLOUR, "edge_width": width}
            if len(vertices) > 1:
                layer.add_paths([vertices], **style)
            else:
                corners = np.repeat(vertices, 4, axis=0)
                corners[:, -2:] += 2 * width * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
                layer.add_ellipses([corners], face_color=DRAWN_COLOUR, **style)
        if self._cell is not None:
            corners = rectangle_of(self._view, self._cell, margin=REVIEW_MARGIN_PX)
            layer.add_rectangles(
                [corners], edge_color=REVIEW_COLOUR, edge_width=width, face_color="transparent"
            )


class Regions:
    """The Shapes layer of the regions that are annotated completely; it and the session follow each other."""

    def __init__(self, view: AnnotationLayer) -> None:
        self._view = view
        self.layer: Shapes | None = None
        view.session.history.events.regions.connect(self._show)
        self._show()

    def close(self) -> None:
        """Follow the session no longer; the layer stays."""
        self._view.session.history.events.regions.disconnect(self._show)
        if self.layer is not None:
            self.layer.events.data.disconnect(self._on_data)
            self.layer.events.features.disconnect(self._on_features)

    def _show(self, _: object = None) -> None:
        regions = self._view.session.metadata.regions
        is_there = self.layer is not None and self.layer in self._view.viewer.layers
        if not is_there:
            if not regions:
                return
            self.layer = add_overlay(
                self._view.viewer, self._view.layer, REGIONS_NAME, {"region": np.zeros(0, int)}
            )
            self.layer.events.data.connect(self._on_data)
            self.layer.events.features.connect(self._on_features)
        assert self.layer is not None
        rectangles, owners = [], []
        for index, region in enumerate(regions):
            part = rectangles_of(self._view, region)
            rectangles += part
            owners += [index] * len(part)
        events = self.layer.events
        with events.data.blocker(self._on_data), events.features.blocker(self._on_features):
            clear_shapes(self.layer)
            if regions:
                width = max(self._view.session.labels.shape[-1] / 400, 1.0)
                self.layer.add_rectangles(rectangles, edge_color=COLOUR, edge_width=width)
            self.layer.features = {"region": np.array(owners, int)}
            self.layer.feature_defaults = {"region": NEW}

    def _on_data(self, event: Any) -> None:
        """Take over what the user has drawn, moved or deleted in the layer itself."""
        action = str(getattr(event, "action", "")).rsplit(".", 1)[-1].lower()
        if action in ("added", "removed", "changed"):
            self._take_over()

    def _on_features(self, _: Any) -> None:
        """Take over what is pasted, of which napari tells by the features alone."""
        if self.layer is not None and (self._owners() != self.layer.features["region"]).any():
            self._take_over()

    def _owners(self) -> NDArray[Any]:
        """Return the region of each shape; copies that were pasted have the features of one, and are new."""
        assert self.layer is not None
        owners: NDArray[Any] = self.layer.features["region"].to_numpy(copy=True)
        for index, region in enumerate(self._view.session.metadata.regions):
            rows = np.flatnonzero(owners == index)
            owners[rows[len(rectangles_of(self._view, region)) :]] = NEW
        return owners

    def _take_over(self) -> None:
        if self.layer is None:
            return
        session, drawn = self._view.session, self._owners()
        shapes = [np.asarray(one) for one in self.layer.data]
        try:
            for index, region in reversed(list(enumerate(session.metadata.regions))):
                own = [shapes[row] for row in np.flatnonzero(drawn == index)]
                boxes = [self._box(one, region) for one in own]
                moved = next((box for box in boxes if box[-2:] != region[-2:]), None)
                if not own:
                    session.remove_region(index)
                elif moved is not None:
                    session.move_region(index, (*region[:-2], *moved[-2:]))
            for row in np.flatnonzero(drawn == NEW):
                session.add_region(self._box(shapes[row]))
        except CellwrightError as error:
            self._view.tell(error)
        self._show()

    def _box(self, vertices: NDArray[np.float64], before: Box | None = None) -> Box:
        """Return the pixels in a shape; where it was moved alone, as many as the region had ``before``."""
        points = np.asarray(self._view.from_layer(vertices), float)
        corners = np.stack([points.min(axis=0), points.max(axis=0)])
        if before is not None:
            sides = [part.stop - part.start for part in before[-2:]]
            if np.allclose(np.ptp(corners[:, -2:], axis=0), sides, atol=SAME_SIZE_PX):
                corners[0, -2:] = np.rint(corners[0, -2:] + 0.5) - 0.5
                corners[1, -2:] = corners[0, -2:] + sides
        return pixel_box(corners, self._view.session.labels.shape)


def rectangle_of(
    view: AnnotationLayer, box: Box, lead: tuple[int, ...] | None = None, *, margin: float = 0.0
) -> NDArray[np.float64]:
    """Return the corners (4, axes of the layer) of a box in one slice, the middle one when not given."""
    if lead is None:
        lead = tuple((part.start + part.stop - 1) // 2 for part in box[:-2])
    first = [*lead, *(part.start - 0.5 - margin for part in box[-2:])]
    last = [*lead, *(part.stop - 0.5 + margin for part in box[-2:])]
    return view.in_layer(corners_of(np.array([first, last])))


def rectangles_of(view: AnnotationLayer, box: Box) -> list[NDArray[np.float64]]:
    """Return the corners of a box in each of its slices."""
    slices = product(*(range(part.start, part.stop) for part in box[:-2]))
    return [rectangle_of(view, box, lead) for lead in islice(slices, MOST_SLICES)]
