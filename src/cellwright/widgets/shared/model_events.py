"""Word that models have come, gone or changed their name, for every model list of this process."""

from psygnal import Signal


class ShelfNews:
    """Tells of changes to the folder of the user's models."""

    changed = Signal()


shelf_news = ShelfNews()
