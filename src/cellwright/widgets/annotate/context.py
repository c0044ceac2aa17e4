"""What is at hand while an image is annotated: the session, its layer, tools, review and regions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari.layers import Labels, Points

from cellwright.annotation.session import AnnotationSession
from cellwright.widgets.annotate.add_by_click import Adder
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Regions
from cellwright.widgets.annotate.review import Review
from cellwright.widgets.annotate.session_setup import OpenedSession
from cellwright.widgets.annotate.tools import InputHandler, ToolBox


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationContext:
    """A session and all that works on it. Made by :func:`context_of`; used by the model and its tools."""

    session: AnnotationSession
    layer: AnnotationLayer
    tools: ToolBox
    input: InputHandler
    review: Review
    adder: Adder
    regions: Regions

    def close(self) -> None:
        """Let go of layer, mouse, keys and journal."""
        for part in (self.adder, self.review, self.tools, self.input, self.regions, self.layer):
            part.close()
        for one in (self.adder, self.review, self.tools):
            one.deleteLater()
        self.session.close()


def context_of(
    viewer: Any, opened: OpenedSession, on_error: Callable[[Exception], None]
) -> AnnotationContext:
    """Show the layer of a session in a viewer, and return all that works on it.

    Parameters
    ----------
    viewer
        A napari viewer.
    opened
        The session and its layer.
    on_error
        Told what could not be recorded.
    """
    session, own = opened.session, opened.layer
    if own not in viewer.layers:
        for one in viewer.layers:
            if isinstance(one, Labels | Points):
                one.visible = False  # what it began with lies under it
        viewer.add_layer(own)
    viewer.layers.selection.active = own
    layer = AnnotationLayer(viewer, own, session, channel_axis=opened.source.channel_axis, on_error=on_error)
    tools = ToolBox(layer)
    review, adder = Review(layer, tools), Adder(session, opened.source)
    return AnnotationContext(session, layer, tools, InputHandler(tools), review, adder, Regions(layer))
