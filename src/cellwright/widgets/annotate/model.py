"""What the annotate panel is about: the open annotation, and what is to be told; no Qt."""

from pathlib import Path
from typing import Any

from psygnal import Signal

from cellwright.annotation.session import AnnotationSession
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.annotate.context import AnnotationContext, context_of
from cellwright.widgets.annotate.session_setup import OpenedSession
from cellwright.widgets.shared.coordinates import Channel


class AnnotateModel:
    """State of one annotate panel, which the widget and its tools share."""

    opened = Signal(object)  # AnnotationContext
    closed = Signal()
    told = Signal(str)  # what was done, for people
    failed = Signal(object)  # Exception
    message = Signal(str)  # a sentence for the panel; an empty one hides the last

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.context: AnnotationContext | None = None
        self.journals: Path | None = None  # folder of the journals; None for the usual one
        self.chosen = DEFAULT_FAMILY  # name or folder of the model that outlines and counts
        self.taught = ""  # of the model whose cells are corrected
        self.channel: Channel | None = None  # of the image that is annotated

    @property
    def session(self) -> AnnotationSession | None:
        """What is annotated now, None between two."""
        if self.context is None:
            return None
        return self.context.session

    @property
    def channel_index(self) -> int | None:
        """The number of the channel that is annotated; None takes colours together."""
        if self.channel is None:
            return None
        return self.channel.index

    def open(self, opened: OpenedSession) -> AnnotationContext:
        """Finish what is open, show another session, and give mouse and keys to it."""
        self.finish()
        self.context = context = context_of(self.viewer, opened, self.failed.emit)
        self.opened.emit(context)
        return context

    def finish(self) -> None:
        """Close the annotation; the labels stay in their layer, and it can be resumed."""
        if self.context is None:
            return
        context, self.context = self.context, None
        context.close()
        self.closed.emit()
