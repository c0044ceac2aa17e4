"""What is at hand while an image is annotated: the session, its layer, tools, review and regions."""

from dataclasses import dataclass

from cellwright.session.annotation import AnnotationSession
from cellwright.widgets.annotate_ask import Adder
from cellwright.widgets.annotate_layers import AnnotationLayer
from cellwright.widgets.annotate_marks import Regions
from cellwright.widgets.annotate_tools import ToolBox
from cellwright.widgets.review import Review


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """A session and all that works on it. Made by the widget; used by it and by what belongs to it."""

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
