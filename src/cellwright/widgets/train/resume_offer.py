"""The offer to go on with a training that was left before it ended."""

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFrame, QLabel, QPushButton, QVBoxLayout

from cellwright.training.run_folder import Plan, curve, discard, unfinished
from cellwright.widgets.shared.style import row


class Offer(QFrame):
    """Names the first run that was left, and lets it be gone on with or thrown away; else out of sight."""

    accepted = Signal(object)  # the Plan to go on with
    discarded = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("offer")
        self.plan: Plan | None = None
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.resume, self.discard = QPushButton("Resume"), QPushButton("Discard")
        self.resume.clicked.connect(lambda: self.accepted.emit(self.plan))
        self.discard.clicked.connect(self._on_discard_clicked)
        layout = QVBoxLayout(self)
        layout.addWidget(self.line)
        layout.addLayout(row(self.resume, self.discard))
        self.setVisible(False)

    def refresh(self) -> None:
        """Offer the first run that was not ended, if there is one."""
        self.plan = next(iter(unfinished()), None)
        self.setVisible(self.plan is not None)
        if self.plan is not None:
            epochs = curve(self.plan)
            step = int(epochs[-1]["step"]) if epochs else 0
            steps = self.plan.settings.steps
            self.line.setText(f"The training of {self.plan.name!r} was left at step {step:,} of {steps:,}.")

    def _on_discard_clicked(self) -> None:
        if self.plan is not None:
            discard(self.plan)
        self.refresh()
        self.discarded.emit()
