"""The guide of the first opening: an image, a count, its results; on sample data, left at any time."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError
from cellwright.files.atomic import write_text
from cellwright.models import store
from cellwright.widgets.count.model import CountModel
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.messages import PANEL, PLUGIN, HandOver, hand_over

SAMPLE = "nuclei_2d"
HIDDEN, OPEN, COUNT, LOOK = range(4)


class _Step(NamedTuple):
    text: str
    button: str
    help_text: str
    leave: str = "Leave"


STEPS = {
    OPEN: _Step(
        "1 of 3: open a sample image, or one of your own.", "Open sample", "Open fluorescent nuclei."
    ),
    COUNT: _Step("2 of 3: press Count cells.", "Count them", "The same as Count cells."),
    LOOK: _Step(
        "3 of 3: each outline is a cell. Results has a row for each, plots and export.",
        "Show Results",
        "Bring the results panel to the front.",
        "Done",
    ),
}


def guide_file() -> Path:
    """Return the file whose presence tells that the guide was left."""
    return store.user_folder().parent / "guide_left"


class FirstRunTool(QObject):
    """Leads from an empty viewer to a count and its results, once by itself and whenever it is asked for."""

    def __init__(self, model: CountModel, panel: CountPanel) -> None:
        super().__init__(panel)
        self._model, self._panel = model, panel
        self._step = HIDDEN
        panel.guide.go_on.clicked.connect(self._on_go_on_clicked)
        panel.guide.leave.clicked.connect(self.leave)
        panel.show_guide.clicked.connect(self.begin)
        panel.image.chosen.connect(self._on_image_chosen)
        model.outcome_changed.connect(self._on_counted)
        model.whole_counted.connect(self._on_counted)
        if panel.image.layer is None and not guide_file().exists():
            self.begin()

    def begin(self) -> None:
        """Show the first step that is still to be done."""
        self._step = OPEN
        self._on_image_chosen()
        self._show()

    def leave(self) -> None:
        """Hide the guide; it does not come again by itself."""
        self._step = HIDDEN
        self._show()
        self._remember()

    def _remember(self) -> None:
        if not guide_file().exists():
            with suppress(CellwrightError):  # where nothing can be written it comes again
                write_text(guide_file(), "")

    def _on_image_chosen(self) -> None:
        if self._step in (OPEN, COUNT):
            has_image = self._panel.image.layer is not None
            self._step = OPEN + has_image
            self._show()

    def _on_counted(self, counted: Any) -> None:
        if self._step in (OPEN, COUNT) and not counted.request.source.is_preview:
            self._step = LOOK
            self._show()
            self._remember()

    def _on_go_on_clicked(self) -> None:
        if self._step == OPEN:
            self._model.viewer.open_sample(PLUGIN, SAMPLE)
        elif self._step == COUNT and not self._model.is_busy:  # the button would cancel
            self._panel.count.click()
        elif self._step == LOOK:
            self.leave()
            hand_over(self._model.viewer, PANEL, HandOver())

    def _show(self) -> None:
        guide = self._panel.guide
        guide.setVisible(self._step != HIDDEN)
        if self._step != HIDDEN:
            step = STEPS[self._step]
            guide.text.setText(step.text)
            guide.go_on.setText(step.button)
            guide.go_on.setToolTip(step.help_text)
            guide.leave.setText(step.leave)
