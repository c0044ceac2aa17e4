"""What is at hand while an image is annotated: the session, its layer, tools, review and regions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellwright.annotation.session import AnnotationSession
from cellwright.widgets.annotate.add_by_click import Adder
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Regions
from cellwright.widgets.annotate.review import Review
from cellwright.widgets.annotate.start import OpenedSession
from cellwright.widgets.annotate.tools import ToolBox

if TYPE_CHECKING:
    from cellwright.widgets.annotate.widget import AnnotateWidget


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationContext:
    """A session and all that works on it. Made by :func:`context_of`; used by the widget and its parts."""

    session: AnnotationSession
    layer: AnnotationLayer
    tools: ToolBox
    review: Review
    adder: Adder
    regions: Regions

    def close(self) -> None:
        """Let go of layer, mouse, keys and journal."""
        for part in (self.adder, self.review, self.tools, self.regions, self.layer):
            part.close()
        for one in (self.adder, self.review, self.tools):
            one.deleteLater()
        self.session.close()


def context_of(widget: "AnnotateWidget", beginning: OpenedSession) -> AnnotationContext:
    """Return all that works on a session, whose layer is in the viewer."""
    session, axis = beginning.session, beginning.source.channel_axis
    layer = AnnotationLayer(
        widget.viewer, beginning.layer, session, channel_axis=axis, on_error=widget.show_error
    )
    tools = ToolBox(layer, widget)
    review, adder = Review(layer, tools, widget), Adder(session, beginning.source, widget)
    return AnnotationContext(session, layer, tools, review, adder, Regions(layer))
