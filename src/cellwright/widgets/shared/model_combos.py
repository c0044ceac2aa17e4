"""Boxes of what counts: models and their cards, classifiers, and the devices they run on."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_warning
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtCore import Signal as QtSignal
from qtpy.QtGui import QIcon, QTextDocument
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QTextBrowser, QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError, CheckpointError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.models import registry, store
from cellwright.models.spec import SPEC, ModelSpec, read_spec
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.flow import FlowLayout
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_factory import bright_colours, class_colour, colours_by_label
from cellwright.widgets.shared.messages import PANEL, choose_entry, listen, load_panel
from cellwright.widgets.shared.napari_private import DEVICES, preferences, prepare_labels
from cellwright.widgets.shared.style import button, fill, row

CARD_HELP = "The card of this model: what it was trained on, its scores, and the licence of its weights."
CARD_SIZE_PX = (640, 560)
LEAST_LETTERS = 4  # of what a model finds, before its name
POINTS = re.compile(r"font-size:[\d.]+pt;?")


class ModelEvents:
    """Tells of changes to the folder of the user's models, to every model list of this process."""

    changed = Signal()


model_events = ModelEvents()


class ModelComboBox(PanelComboBox):
    """The models that travel with the package and the user's own, by what they give back.

    Listed are those that it ``accepts``, and the further titles and data of ``after``; ``otherwise`` is shown
    where there is none. ``usual`` gives the name to choose where the chosen one is gone, from the family of
    each; else it is the first. ``folders`` is the title of the dialog in which a model folder can be chosen
    too; empty for none.
    """

    failed = QtSignal(object)  # CellwrightError: the chosen folder holds no model

    def __init__(
        self,
        help_text: str = "Model that finds the cells.",
        *,
        accepts: Callable[[store.ModelEntry], bool] = lambda _: True,
        after: Callable[[], Iterable[tuple[str, Any]]] = tuple,
        usual: Callable[[Mapping[str, str]], str | None] = lambda _: None,
        otherwise: str = "none",
        folders: str = "",
    ) -> None:
        super().__init__(help_text, folders=folders)
        self._accepts, self._after, self._usual, self._otherwise = accepts, after, usual, otherwise
        self._families: dict[str, str] = {}
        listen(model_events.changed, self.refresh, self)
        self.refresh()

    def shortened(self, text: str, room_px: int) -> str:
        """Return a title that fits; the name of the model, at its end, is kept for the longest."""
        title, dot, name = text.rpartition(" · ")
        room_left = room_px - self.fontMetrics().horizontalAdvance(dot + name)
        short = self.fontMetrics().elidedText(title, Qt.TextElideMode.ElideRight, room_left)
        if len(short) > LEAST_LETTERS:
            return short + dot + name
        return super().shortened(name, room_px)

    @property
    def model_name(self) -> str:
        """Name or folder of the chosen model.

        CheckpointError where there is none.
        """
        model = self.currentData()
        if not model:
            raise CheckpointError(
                f"A model is needed to count; none was found in {store.shipped_folder()} and "
                f"{store.user_folder()}. Choose a model folder, or install cellwright again."
            )
        return str(model)

    @property
    def families(self) -> Mapping[str, str]:
        """Family of each listed model, by its name or folder."""
        return self._families

    @property
    def family(self) -> str:
        """Family of the chosen model; the first one when there is no model."""
        return self._families.get(str(self.currentData()), registry.DEFAULT_FAMILY)

    @property
    def siblings(self) -> list[tuple[str, str]]:
        """Title and name or folder of the other models of the family of the chosen one."""
        entries = [(self.itemText(place), str(self.itemData(place))) for place in range(self.count())]
        chosen, families = str(self.currentData()), self._families
        family = families.get(chosen, "none")
        return [(title, name) for title, name in entries if name != chosen and families.get(name) == family]

    def refresh(self, wanted: str = "") -> None:
        """List the models and choose one; the chosen one stays so while it is there."""
        order = list(registry.FAMILIES)
        entries = [one for one in store.models() if one.spec.family in order and self._accepts(one)]
        entries.sort(key=lambda entry: order.index(entry.spec.family))
        self._folders = {one: title for one, title in self._folders.items() if (one / SPEC).exists()}
        chosen = {str(one): self._families[str(one)] for one in self._folders}
        self._families = {one.name: one.spec.family for one in entries} | chosen
        data, after = wanted or self.currentData(), tuple(self._after())
        if data not in self._families and data not in (one for _, one in after):
            data = self._usual(self._families)
        titles = [(model_title(one.name, one.spec.family), one.name) for one in entries]
        self.fill([*titles, *after], data, self._otherwise)
        for place, entry in enumerate(entries):
            self.setItemData(place, model_help(entry.spec), Qt.ItemDataRole.ToolTipRole)

    def showPopup(self) -> None:
        """List what there is now: another window, or a command, may have added models; called by Qt."""
        self.refresh()
        super().showPopup()

    def choose_preferred(self) -> None:
        """Choose the model of the Preferences where it is listed, or is a folder that could be."""
        own = preferences().model
        place = self.findData(own)
        if own and place >= 0:
            self.setCurrentIndex(place)
        elif own:
            try:
                self._list_folder(own)
            except CellwrightError as error:
                wrong = CheckpointError(f"The model set in the Preferences is not used. {error_line(error)}")
                QTimer.singleShot(0, partial(self._tell, wrong))  # once it is listened to

    def take(self, model: str) -> None:
        """Choose a model that another panel sends, as a user would; a folder is listed, if it can be."""
        if model and self.findData(model) < 0:
            with suppress(CellwrightError):
                self._list_folder(model)
        choose_entry(self, model)

    def _list_folder(self, model: str) -> None:
        folder = store.find(model)
        if self._accepts(store.ModelEntry(folder.name, folder, read_spec(folder / SPEC), {})):
            self.add_folder(folder)

    def _tell(self, error: CellwrightError) -> None:
        if isalive(self):
            self.failed.emit(error)

    def with_card(self) -> FlowLayout:
        """Return the box with the button beside it that shows the card of the chosen model."""
        card = button("Card", CARD_HELP)
        card.clicked.connect(self.show_card)

        def follow() -> None:
            own = str(self.currentData())
            card.setEnabled(own in self._families or own in [one.name for one in store.classifiers()])

        self.chosen.connect(follow)
        follow()
        return row(self, card)

    def show_card(self) -> None:
        """Show the card of the chosen model, or why there is none, in a window of its own."""
        try:
            text = store.card_text(self.model_name)
        except CellwrightError as error:
            text = error_line(error)
        ModelCard(self.currentText(), text, self).show()

    def add_folder(self, folder: Path) -> None:
        """List a model folder and choose it; tell by ``failed`` when it is none."""
        try:
            spec = read_spec(folder / SPEC)
            registry.get(spec.family)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        self._families[str(folder)] = spec.family
        self._add_folder(folder, model_title(folder.name, spec.family), model_help(spec))


class ModelCard(QDialog):
    """A window with the card of a model, in markdown, which stays beside the viewer until it is closed."""

    def __init__(self, title: str, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(*CARD_SIZE_PX)
        self.browser = QTextBrowser()
        self.browser.setOpenExternalLinks(True)
        card = QTextDocument()
        card.setMarkdown(text)
        self.browser.setHtml(POINTS.sub("", card.toHtml()))  # else code is small in large letters
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        for made in buttons.buttons():
            made.setIcon(QIcon())  # that of the desktop is black, in a dark theme, too
        fill(QVBoxLayout(self), self.browser, buttons)


class ClassifierComboBox(PanelComboBox):
    """The classifiers that give cells their classes, folders of others, and none."""

    failed = QtSignal(object)  # CellwrightError: the chosen folder holds no classifier

    def __init__(self) -> None:
        super().__init__("Classify the cells after counting.", folders="Folder of a classifier")
        listen(model_events.changed, self.refresh, self)
        self.refresh()

    @property
    def classifier(self) -> str:
        """Name or folder of the chosen classifier; empty for none, and where the box is disabled."""
        return str(self.currentData()) if self.isEnabled() else ""

    def refresh(self) -> None:
        """List what can be chosen by name, and the folders; what is chosen stays so while it is there."""
        self.fill([("None", ""), *classifier_choices()], self.currentData())

    def showPopup(self) -> None:
        """List what there is now, as commands may have added; called by Qt."""
        self.refresh()
        super().showPopup()

    def add_folder(self, folder: Path) -> None:
        """List the folder of a classifier and choose it; tell by ``failed`` when it is none."""
        try:
            classes = ", ".join(store.classifier_of(folder).classes)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        self._add_folder(folder, f"{folder.name}: {classes}", str(folder))

    def take(self, classifier: str) -> None:
        """Choose a classifier that a file tells of; what is not here is listed, for the count to tell so."""
        if self.findData(classifier) < 0:
            self._add_folder(Path(classifier), classifier, classifier)
            return
        self.choose_data(classifier)


class DeviceComboBox(PanelComboBox):
    """The devices of this machine; begins with that of the Preferences, be it there or not."""

    def __init__(self) -> None:
        super().__init__("Where the network runs; Auto chooses the fastest.")
        self._job: Job | None = None
        self._preferred = next(one for one in DEVICES.items() if one[1] == preferences().device)
        self.fill(dict.fromkeys([("Auto", "auto"), self._preferred]), self._preferred[1])

    @property
    def device(self) -> str:
        """Name of the chosen device."""
        return str(self.currentData())

    def find_devices(self) -> None:
        """Name the devices, once; found beside the viewer since torch takes a second to import."""
        if self._job is None:
            self._job = Job(device_task(), self).start(returned=self._on_found, failed=self._on_failed)

    def _on_found(self, found: tuple[tuple[str, str], ...]) -> None:
        entries = [(f"Auto · {found[0][1]}", "auto"), *((title, name) for name, title in found)]
        if self._preferred[1] not in [name for _, name in entries]:
            entries.append(self._preferred)  # it is not there, as a count will tell
        self.fill(entries, self.device)

    def _on_failed(self, error: Exception) -> None:
        self._job = None  # looked for again when the panel is shown the next time
        show_warning(f"The devices of this machine could not be listed: {error_line(error)}")


def classifier_choices() -> list[tuple[str, str]]:
    """Return title and name of every classifier: ``[("blood: RBC, WBC, Platelet", "blood")]``."""
    entries = store.classifiers()
    return [(f"{entry.name}: {', '.join(entry.spec.classes)}", entry.name) for entry in entries]


def model_title(name: str, family: str) -> str:
    """Return what a model finds, then its name: ``Nuclei and cells · flow``."""
    return f"{registry.get(family).title} · {name}"


def model_help(spec: ModelSpec) -> str:
    """Return what a model is good for, and how its family works."""
    return f"{spec.title}.\n{registry.get(spec.family).description}."


def device_task() -> Task[tuple[tuple[str, str], ...]]:
    """Return name and title of this machine's devices, having loaded what the first count will need."""
    yield Progress("devices", 0, 1)
    prepare_labels(bright_colours(), colours_by_label({1: class_colour(0)}))
    from cellwright.inference.device import devices

    import_module("cellwright.inference.pipeline")  # while it is loaded the viewer waits: not during a count
    with suppress(RuntimeError, ValueError):  # not to be had: told where the panel is opened
        load_panel(PANEL)
    return tuple(devices())
