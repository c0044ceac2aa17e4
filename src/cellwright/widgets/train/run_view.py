"""What a training shows while it runs and when it has ended: curves, a picture, scores before and after."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import QFrame, QLabel, QSizePolicy, QVBoxLayout

from cellwright.widgets.train.plot import Curve, CurvePlot

LOSS_COLOUR, SCORE_COLOUR, RATE_COLOUR = "#ff9f1c", "#3fd0c9", "#9d6bff"
SCORE_TITLES = {
    "score": "score",
    "ap50": "AP at IoU 0.5",
    "count_error": "count error",
    "memory": "retention",
    "validation_loss": "validation loss",
    "box_iou": "IoU of boxes",
    "interval_coverage": "interval coverage",
}
LOWER_IS_BETTER = ("count_error", "validation_loss")
PERCENT = ("count_error",)


class TrainCard(QFrame):
    """Curves over the steps, truth beside what is found now, scores; out of sight until there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("card")
        self.plot, self.picture = CurvePlot(), Picture()
        self.caption, self.scores = QLabel(), QLabel()
        self.caption.setObjectName("caption")
        self.scores.setObjectName("scores")
        self.scores.setTextFormat(Qt.TextFormat.RichText)
        for label in (self.caption, self.scores):
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            label.setVisible(False)
        layout = QVBoxLayout(self)
        for widget in (self.scores, self.plot, self.picture, self.caption):
            layout.addWidget(widget)
        self.setVisible(False)

    def show_curves(self, epochs: Sequence[Mapping[str, float]], last_step: float) -> None:
        """Draw the curves of the epochs so far."""

        def points(name: str) -> tuple[tuple[float, float], ...]:
            return tuple((epoch["step"], epoch[name]) for epoch in epochs if name in epoch)

        score = "score" if any("score" in epoch for epoch in epochs) else "merit"
        named = "AP at IoU 0.5" if any("ap50" in epoch for epoch in epochs) else "score"
        self.plot.show_curves(
            (
                Curve("loss", points("loss"), LOSS_COLOUR),
                Curve(f"validation {named}", points(score), SCORE_COLOUR, 1.4),
                Curve("learning rate", points("rate")[1:], RATE_COLOUR, 0.5),
            ),
            last_step,
        )
        self.setVisible(True)

    def show_picture(self, picture: NDArray[np.uint8] | None, caption: str) -> None:
        """Show truth and found cells side by side."""
        if picture is not None:
            self.picture.show_array(picture)
            self.caption.setText(f"{caption}: truth · found now")
            self.caption.setVisible(True)

    def show_scores(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Show the scores before and after as a table; nothing where there are none."""
        self.scores.setText(scores_table(before, after) if after else "")
        self.scores.setVisible(bool(after))

    def clear(self) -> None:
        """Forget the last training."""
        self.show_scores({}, {})
        self.picture.setVisible(False)
        self.caption.setVisible(False)
        self.plot.show_curves((), 1.0)


class Picture(QLabel):
    """A picture that is as wide as there is room."""

    def __init__(self) -> None:
        super().__init__()
        self._pixmap = QPixmap()
        self.setObjectName("picture")
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setVisible(False)

    def show_array(self, picture: NDArray[np.uint8]) -> None:
        """Show an array (height, width, 3)."""
        data = np.ascontiguousarray(picture)
        height, width, _ = data.shape
        image = QImage(data.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._pixmap = QPixmap.fromImage(image)
        self.setVisible(True)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Scale the picture; called by Qt."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        if self._pixmap.isNull() or self.width() < 8:
            return
        fitted = self._pixmap.scaledToWidth(self.width(), Qt.TransformationMode.SmoothTransformation)
        self.setPixmap(fitted)
        self.setFixedHeight(fitted.height())


def scores_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the scores that both have as a table in rich text; what became better is in colour."""
    shown = [name for name in SCORE_TITLES if name in before and name in after]
    if "ap50" in shown and "score" in shown:
        shown.remove("score")  # they are the same
    rows = ["<tr><td></td><td align='right'>before</td><td align='right'>after</td></tr>"]
    for name in shown:
        gain = (after[name] - before[name]) * (-1 if name in LOWER_IS_BETTER else 1)
        colour = "#3fd0c9" if gain > 0.0005 else "#e07a6b" if gain < -0.0005 else "#9aa0aa"
        figures = [
            f"{value:.0%}" if name in PERCENT else f"{value:.3f}" for value in (before[name], after[name])
        ]
        rows.append(
            f"<tr><td>{SCORE_TITLES[name]}</td><td align='right'>&nbsp;&nbsp;{figures[0]}</td>"
            f"<td align='right'>&nbsp;&nbsp;<b style='color:{colour}'>{figures[1]}</b></td></tr>"
        )
    return f"<table cellspacing='4'>{''.join(rows)}</table>"
