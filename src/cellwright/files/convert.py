"""Annotations of one format to another."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError, repeated
from cellwright.files.atomic import as_stored, plain_name
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import READERS, Format, format_of, recognise
from cellwright.files.images import read_image


def convert(
    sources: Sequence[Path | str], to: str, output: Path | str, image: Image | Path | str | None = None
) -> dict[Path, tuple[ImageAnnotation, ...]]:
    """Read annotations of any format and write them in another; return what was written where.

    Several images go into one file where the format (``labels``, ``coco`` ...) holds several, else into a
    folder, each into a file that has its name. Size and pixel size of ``image`` hold where a file tells none.

    SettingsError where there is no such format, two images have one name, or an input file or one in the
    folder would be overwritten. WriteError where the format cannot hold this.
    """
    one, output = format_of(to), Path(output)
    taken = {Path(source).resolve() for source in sources}
    if isinstance(image, Path | str):
        taken.add(Path(image).resolve())
        image = read_image(image)
    found = [annotation for source in sources for annotation in recognise(source).read(source, image)]
    written = dict(_parted(found, one, output))
    over = [path for path in written if path.resolve() in taken]
    if over:
        raise SettingsError(f"{over[0]} is an input and would be overwritten. Choose another name.")
    there = [path for path in written if path != output and path.exists()]
    if there:  # which nobody has named
        raise SettingsError(f"{there[0]} is there already. Move it away, or choose another folder.")
    for path, annotations in written.items():
        one.write(path, annotations)
    return written


def _parted(
    found: Sequence[ImageAnnotation], one: Format, output: Path
) -> Iterator[tuple[Path, tuple[ImageAnnotation, ...]]]:
    """Yield the files to write and what goes into each."""
    if one.is_folder or one.has_many or (len(found) == 1 and output.name.lower().endswith(one.extensions)):
        yield output, tuple(found)
        return
    endings = tuple(ending for other in READERS.values() for ending in other.extensions)
    if output.name.lower().endswith(endings) and not output.is_dir():
        raise SettingsError(
            f"Files of {one.name} end with {' or '.join(one.extensions)} and hold one image; got "
            f"{output.name} for {len(found)}. Name such a file, or a folder for several."
        )
    twice = repeated(as_stored(plain_name(each.name), output) for each in found)
    if twice:
        raise SettingsError(
            f"Images that go into files of their own must differ in name; {', '.join(twice[:5])} occurs more "
            "than once. Convert them one by one."
        )
    for each in found:
        yield output / f"{plain_name(each.name)}{one.extensions[0]}", (each,)
