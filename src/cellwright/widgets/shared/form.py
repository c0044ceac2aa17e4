"""Forms made from settings dataclasses, a row for each field by its annotation; lists that can be ticked."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from math import inf
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from magicgui.widgets import Container, create_widget
from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import QAbstractButton, QDoubleSpinBox, QListWidget, QListWidgetItem, QWidget

from cellwright.widgets.shared.style import form_layout, take_points

UNITS = {"_px": " (px)", "_um": " (µm)"}
TITLES = {  # where the name of a setting does not tell what it is
    "combine": "Combined by",
    "flips": "Mirrored, too",
    "link": "Link slices in 3D",
    "overlap": "Overlap of tiles",
    "waist": "Split threshold",
    "rate": "Learning rate",
    "steps_per_epoch": "Steps per check",
    "ema_decay": "EMA decay",
    "replay": "Replay share",
    "n_replay": "Replay images",
    "n_validation": "Check images",
}
ZEROS = {"diameter_px": "auto", "diameter_um": "not given", "batch_size": "auto"}  # what 0 is shown as
WIDEST_SLIDER = 2.0  # beyond this span a slider cannot be set to a wanted number with a mouse


class SettingsForm:
    """Rows for the fields of a frozen dataclass; ``changed`` follows every edit.

    Their annotations, see ``core.settings.about``, give limits and help; all have defaults. Shown are those
    of ``names``, in this order; all when left out.
    """

    changed = Signal()

    def __init__(self, settings_type: type[Any], names: Sequence[str] | None = None) -> None:
        if names is None:
            names = names_of(settings_type)
        hints = get_type_hints(settings_type, include_extras=True)
        defaults = {item.name: item.default for item in fields(settings_type)}
        self._whole = {name for name in names if type(defaults[name]) is int}
        self.container = Container(
            widgets=[_row(name, hints[name], defaults[name]) for name in names], labels=False
        )
        self.native = QWidget()
        form = form_layout(into=self.native)
        form.setContentsMargins(0, 0, 0, 0)
        for made in self.container:
            if isinstance(made.native, QAbstractButton):
                form.addRow(made.native)
            else:
                form.addRow(made.label, made.native)
            for part in made.native.findChildren(QWidget):
                part.setToolTip(made.tooltip)
        self.container.changed.connect(lambda *_: self.changed.emit())

    def values(self) -> dict[str, Any]:
        """Return the shown fields by name."""
        shown = dict(self.container.asdict())
        return shown | {name: int(shown[name]) for name in self._whole}

    def set_values(self, values: dict[str, Any]) -> None:
        """Show these values; fields that are not in the form are left out."""
        for name in self.values().keys() & values.keys():
            self.container[name].value = values[name]


def names_of(settings_type: type[Any]) -> tuple[str, ...]:
    """Return the field names of a settings dataclass."""
    return tuple(item.name for item in fields(settings_type))


def is_threshold(settings_type: type[Any], name: str) -> bool:
    """Return whether a field is a fraction between two close limits, best set with a slider."""
    return _is_fraction(get_type_hints(settings_type, include_extras=True)[name])


def _row(name: str, hint: Any, default: Any) -> Any:
    options: dict[str, Any] = {}
    has_word = name in ZEROS and _limits(hint).get("min") == 0
    if _is_fraction(hint):
        options = {"widget_type": "FloatSlider"}
    elif has_word and type(default) is int:
        options = {"widget_type": "FloatSpinBox", "step": 1}  # the box of whole numbers has no word for 0
    unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
    title = name.removesuffix("_px").removesuffix("_um").replace("_", " ").capitalize()
    label = TITLES.get(name, title + unit)
    made = create_widget(value=default, annotation=hint, name=name, label=label, options=options)
    for box in (made.native, *made.native.findChildren(QDoubleSpinBox)):
        if isinstance(box, QDoubleSpinBox):
            take_points(box)
    if has_word:
        made.native.setSpecialValueText(ZEROS[name])
        if type(default) is int:
            made.native.setDecimals(0)
    return made


def _is_fraction(hint: Any) -> bool:
    limits = _limits(hint)
    span = limits.get("max", inf) - limits.get("min", -inf)
    return get_args(hint)[:1] == (float,) and span <= WIDEST_SLIDER


def _limits(hint: Any) -> dict[str, Any]:
    """Return limits and help of an annotation; none where it is a bare type."""
    return dict(get_args(hint)[1]) if get_origin(hint) is Annotated else {}


LIST_PX = 160  # the least, for names to be read
MOST_ROWS = 4  # that are not scrolled
ROW_PADDING_PX = 4


class CheckList(QListWidget):
    """Entries that can be ticked, as high as they need, and scrolled where they are many."""

    def __init__(self, help_text: str) -> None:
        super().__init__()
        self.setToolTip(help_text)
        self.setMinimumWidth(LIST_PX)
        self.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # layers and models differ at the end
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    @property
    def ticked(self) -> tuple[str, ...]:
        """Data of the entries that are ticked."""
        items = [self.item(place) for place in range(self.count())]
        ticked = [item for item in items if item is not None and item.checkState() == Qt.CheckState.Checked]
        return tuple(str(item.data(Qt.ItemDataRole.UserRole)) for item in ticked)

    def list_entries(self, entries: Iterable[tuple[str, str]], ticked: Collection[str]) -> None:
        """List titles and data, and tick some."""
        row_px = self.fontMetrics().height() + 2 * ROW_PADDING_PX
        with QSignalBlocker(self):
            self.clear()
            for title, data in entries:
                item = QListWidgetItem(title)
                item.setToolTip(title)
                item.setData(Qt.ItemDataRole.UserRole, data)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if data in ticked else Qt.CheckState.Unchecked)
                item.setSizeHint(QSize(0, row_px))
                self.addItem(item)
        n_shown = min(self.count(), MOST_ROWS)
        self.setFixedHeight(n_shown * row_px + 2 * ROW_PADDING_PX)

    def tick(self, data: str, instead_of: Collection[str] = ()) -> None:
        """Tick the entry with this data, if there is one, in the place of some others."""
        for place in range(self.count()):
            item = self.item(place)
            own = "" if item is None else item.data(Qt.ItemDataRole.UserRole)
            if item is not None and own == data:
                item.setCheckState(Qt.CheckState.Checked)
            elif item is not None and own in instead_of:
                item.setCheckState(Qt.CheckState.Unchecked)
