"""What the chosen data hold and what looks wrong with them, found beside the viewer before a training."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models import registry, store
from cellwright.models.spec import read_spec
from cellwright.training.data.inspect import Findings, inspect
from cellwright.training.run_folder import SCRATCH
from cellwright.widgets.shared.combos import SPECS
from cellwright.widgets.shared.jobs import JobBar, debouncer
from cellwright.widgets.shared.style import chip, stack, wrapped_label
from cellwright.widgets.train.choices import TrainChoices
from cellwright.widgets.train.model import TrainModel

CHECK_MS = 300  # after the last change of what is chosen
WARNING_COLOUR = "#e0a93b"


class DataCheck(QWidget):
    """Looks at the data soon after another choice, with a bar and Cancel, and tells what it found."""

    def __init__(self, choices: TrainChoices, model: TrainModel) -> None:
        super().__init__()
        self._choices, self._model = choices, model
        self._is_stale = False
        self.findings: Findings | None = None
        self.job, self.label = JobBar(), wrapped_label(name="findings")
        self.label.setTextFormat(Qt.TextFormat.RichText)
        stack(self.job, self.label, into=self)
        self._debouncer = debouncer(self, CHECK_MS, self.start)
        choices.changed.connect(self._debouncer.throttle)
        self.job.failed.connect(self._on_failed)
        self.job.cancelled.connect(self._on_cancelled)
        self.job.finished.connect(self._on_finished)
        self._tell("")

    def start(self) -> None:
        """Look at what is chosen now; a look at what was chosen before is given up."""
        self._debouncer.cancel()
        if self._model.is_busy or self._model.is_leaving:
            return
        if self.job.is_busy:
            self._is_stale = True
            self.job.cancel()
            return
        self.findings = None
        try:
            source = self._choices.source()
        except CellwrightError as error:
            self._tell(str(error))
            return
        self._tell("")
        self.job.start(check_task(source, self._choices.start), self._on_checked)

    def _on_checked(self, findings: Findings) -> None:
        self.findings = findings
        self._tell(findings.summary(), [one.text for one in findings.warnings])

    def _on_failed(self, error: Exception) -> None:
        self._tell("", [error_line(error)])

    def _on_cancelled(self) -> None:
        self._tell("Cancelled: what the images hold was not looked at.")

    def _on_finished(self) -> None:
        if self._is_stale:
            self._is_stale = False
            self.start()

    def _tell(self, summary: str, warnings: Sequence[str] = ()) -> None:
        """Show what the data hold and what looks wrong with them."""
        marked = [f"{chip('⚠', WARNING_COLOUR)} {escape(one)}" for one in warnings]
        lines = [line for line in (escape(summary), *marked) if line]
        self.label.setText("<br>".join(lines))
        self.label.setVisible(bool(lines))


def check_task(source: Dataset | Path, start: str) -> Task[Findings]:
    """Return what a dataset, or one in a folder, holds for the model that is to begin with."""
    yield Progress("look", 0, 1, "looking at the images")
    if not isinstance(source, Dataset):
        source = read_dataset(source)
    if start.startswith(SCRATCH):
        spec = registry.get(start.removeprefix(SCRATCH)).load().build("small").spec
    else:
        spec = read_spec(store.find(start) / SPECS)
    return (yield from inspect(source, spec))
