"""What the user has set for all sessions, in napari's Preferences."""

from dataclasses import dataclass, fields
from pathlib import Path

from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.ops.measure.filters import BorderRule

PLUGIN, PAGE = "napari-cellwright", "counting"


@dataclass(frozen=True, slots=True)
class Preferences:
    """Where panels begin; the fields are those of ``configurations`` in the manifest.

    Parameters
    ----------
    model
        Name or folder; empty takes the default of the package.
    device
        Where the network runs.
    border
        Which cells at the border count.
    unit
        ``auto`` tells micrometres where the pixel size is known, ``px`` pixels alone.
    output_folder
        Where files are saved; empty is the folder that napari was started in.
    """

    model: str = ""
    device: str = "auto"
    border: BorderRule = "all"
    unit: str = "auto"
    output_folder: str = ""

    @property
    def default_model(self) -> str:
        """The model to begin with."""
        return self.model or DEFAULT_FAMILY

    def path_for(self, name: str) -> str:
        """Return where a file of this name is proposed to be saved."""
        if not self.output_folder:
            return name
        return str(Path(self.output_folder).expanduser() / name)


def preferences() -> Preferences:
    """Return what is set now; the defaults where napari knows no settings of plugins."""
    try:
        from napari.settings import get_plugin_settings

        page = getattr(get_plugin_settings(PLUGIN), PAGE)
    except (ImportError, KeyError, AttributeError):  # napari before 0.9, or a plugin that is not installed
        return Preferences()
    return Preferences(**{item.name: getattr(page, item.name) for item in fields(Preferences)})
