"""Whether two ways of counting the same pixels, by cells and by density, agree."""

from cellwright.core.data import Result
from cellwright.models import registry
from cellwright.widgets.count.count_request import CountOutcome

Place = tuple[str, int | None, tuple[int, ...], tuple[int, ...]]


class Comparison:
    """Remembers the last count of each kind for each counted part of a layer."""

    def __init__(self) -> None:
        self._results: dict[tuple[Place, str], Result] = {}

    def add(self, counted: CountOutcome) -> tuple[str, ...]:
        """Remember a count; return what to tell the user where both kinds disagree. Previews are left out."""
        request = counted.request
        if request.source.is_preview:
            return ()
        source = request.source
        place = (source.layer_id, request.engine.channel, source.offset, source.image.shape)
        self._results[place, registry.get(request.family).gives] = counted.result
        cells, density = (self._results.get((place, kind)) for kind in ("instances", "density"))
        if cells is None or density is None:
            return ()
        from cellwright.inference.calibration import disagreement

        told = disagreement(cells.count, density)
        return (told,) if told else ()
