"""What the annotate panel is about: the open annotation, and what is to be told; no Qt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from psygnal import Signal

from cellwright.annotation.session import AnnotationSession
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.annotate.context import AnnotationContext, context_of
from cellwright.widgets.annotate.session_setup import OpenedSession
from cellwright.widgets.shared.coordinates import Channel


class AnnotateModel:
    """State of one annotate panel, which the widget and its tools share.

    ``message`` tells a sentence, an empty one hides the last, or what went wrong; ``tell_done`` what is done.
    """

    opened = Signal(object)  # AnnotationContext
    closed = Signal()

    def __init__(self, viewer: Any, message: Any, tell_done: Callable[[str], None]) -> None:
        self.viewer, self.tell_done = viewer, tell_done
        self.tell, self.fail = message.tell, message.fail
        self.context: AnnotationContext | None = None
        self.journals: Path | None = None  # folder of the journals; None for the usual one
        self.chosen = DEFAULT_FAMILY  # name or folder of the model that outlines and counts
        self.taught = ""  # of the model whose cells are corrected
        self.channel: Channel | None = None  # of the image that is annotated

    @property
    def session(self) -> AnnotationSession | None:
        """What is annotated now, None between two."""
        return None if self.context is None else self.context.session

    @property
    def channel_index(self) -> int | None:
        """The number of the channel that is annotated; None takes colours together."""
        return None if self.channel is None else self.channel.index

    def open(self, opened: OpenedSession) -> AnnotationContext:
        """Finish what is open, show another session, and give mouse and keys to it."""
        self.finish()
        self.context = context = context_of(self.viewer, opened, self.fail)
        self.opened.emit(context)
        return context

    def finish(self) -> None:
        """Close the annotation; the labels stay in their layer, and it can be resumed."""
        if self.context is None:
            return
        context, self.context = self.context, None
        context.close()
        self.closed.emit()
