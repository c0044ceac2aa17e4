"""Zarr, plain and OME-Zarr 0.1 to 0.6, here or on a server, opened without reading their pixels.

Source: https://ngff.openmicroscopy.org/specifications/ (images, plates and wells, labels) and the layout of
bioformats2raw. What is read of the metadata is the same in all versions, so none is checked against a schema:
stores of programs that strayed from it open too.

Label images larger than memory are written as OME-Zarr 0.5, window by window, then given their pyramid.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise, product
from math import ceil, prod
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from cellwright.core.data import SPATIAL, ArrayLike, Image
from cellwright.core.errors import CellwrightError, ReadError, WriteError, expecting, needed
from cellwright.files.atomic import writing
from cellwright.files.metadata import (
    LEAST_BOMB_BYTES,
    ImageMetadata,
    Wanted,
    describe,
    letters_of,
    magnitude,
    seconds_of,
    um_per,
)
from cellwright.ops.geometry.tiles import pieces

PROTOCOLS = ("http", "https", "s3", "gs", "az", "memory")
SILENT_SECONDS = 30.0  # after which a server that says nothing is given up
S3_TRIES = 5  # of s3fs, each with its share of these seconds
ATTRIBUTES = ("zarr.json", ".zattrs")
MARKERS = ("zarr.json", ".zarray", ".zgroup")
METADATA = (*MARKERS, ".zattrs", ".zmetadata")
NAMES_OF_XARRAY = "_ARRAY_DIMENSIONS"  # where xarray names the axes of format 2, which has no place for them
OLD_AXES = "TCZYX"  # of versions 0.1 and 0.2, which do not name them
MOST_CHUNK_BYTES = 1 << 31
MOST_TIMES_STORED = 4000  # how many more chunks than are in its store an array can have
MOST_IMAGES = 10_000
LEVEL_ROUNDING_PX = 2  # by which a level may be larger or smaller than a whole share of the first
CHUNK_PX = 512  # side of a chunk along Y and X
SEEN_PX = 256  # side of the pieces in which it is drawn
SMALLEST_LEVEL_PX = 512  # no level of the pyramid is needed below this
COPY_PX = 2048  # side of what is read at once to make the next level; a multiple of 2 * CHUNK_PX


def is_zarr(folder: Path) -> bool:
    """Return whether ``folder`` holds a Zarr array or group (format 2 or 3)."""
    return any((folder / marker).exists() for marker in MARKERS)


def images_inside(folder: Path) -> dict[str, dict[str, str]]:
    """Return the place of each image in a Zarr folder of several, with its well and site; {} where it is one.

    Wells that the plate names and that are not there are told, too: reading them fails.
    """
    try:
        attributes = "".join(
            (folder / name).read_text(encoding="utf-8") for name in ATTRIBUTES if (folder / name).is_file()
        )
        if not any(f'"{kind}' in attributes for kind in ("plate", "well", "bioformats2raw")):
            return {}  # zarr is not needed to know that
        import zarr

        group = zarr.open_group(folder, mode="r")
        facts = _ome(group)
        if "plate" not in facts:
            return {place: {} for place in _image_paths(group) if place}
        found: dict[str, dict[str, str]] = {}
        for well in _wells(facts):
            sites = _image_paths(group[well]) if well in group else ["0"]
            found |= {f"{well}/{site}": {"well": well.replace("/", ""), "site": site} for site in sites}
    except Exception:  # noqa: BLE001 - zarr fails in every possible way on damaged folders; reading tells how
        return {}
    return found


def address_of(source: PurePath | str) -> str:
    """Return the address of a store on a server, '' for a path; a path made of an address is one again."""
    text = str(source).replace("\\", "/")
    protocol, colon, rest = text.partition(":/")
    if colon and protocol in PROTOCOLS:
        return f"{protocol}://{rest.lstrip('/')}"
    return ""


def last_part(source: PurePath | str) -> str:
    """Return the name of a file or folder, or the last part of an address."""
    return address_of(source).rstrip("/").rpartition("/")[2] or PurePath(source).name or str(source)


def read_zarr(source: Path | str, wanted: Wanted) -> Iterator[Image]:
    """Yield the images of a Zarr folder or address at full resolution, each with what its metadata tells.

    An array is one image, a group of OME-Zarr one or several: those of bioformats2raw, of a plate or a well.

    ReadError where zarr is not installed, or the folder is damaged or holds no image.
    """
    with needed(ReadError, f"Reading the Zarr folder {source}", "zarr"):
        import zarr
    name = last_part(source).removesuffix(".zarr")
    try:
        node = zarr.open(source, mode="r", storage_options=_server_options(address_of(source)))
        if isinstance(node, zarr.Array):
            names = getattr(node.metadata, "dimension_names", None) or node.attrs.get(NAMES_OF_XARRAY)
            axes = letters_of(names if isinstance(names, list | tuple) else ())
            yield describe(_checked(node, source), axes, name)
        else:
            yield from _images_of(node, name, source, wanted)
    except CellwrightError:
        raise
    except ImportError:
        with needed(ReadError, f"Reading {source}", "remote"):
            raise
    except Exception as error:  # zarr fails in every possible way on damaged folders
        raise ReadError(
            f"Expected a whole Zarr folder at {source}; got: {_got(error)}. {_advice(source)}"
        ) from error


def _images_of(node: Any, name: str, source: Path | str, wanted: Wanted) -> Iterator[Image]:
    """Yield the images of a group, each with what the group lacks."""
    paths = _image_paths(node)
    if not paths:
        arrays = [key for key, _ in zip(node.array_keys(), range(5), strict=False)]
        advice = f"Name one of its arrays: {', '.join(arrays)}." if arrays else "Name its array."
        raise ReadError(f"Expected an array or an OME-Zarr image in {source}; got another group. {advice}")
    missing = _missing_wells(node)
    for path in paths:
        group = node[path] if path else node
        own = f"{name}_{path.replace('/', '_')}" if len(paths + missing) > 1 else name
        image = _multiscale(group, own, source, wanted)
        yield replace(image, notices=(*image.notices, *missing))


def _got(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"one without its part {error}"
    if isinstance(error, FileNotFoundError):  # which names objects of zarr
        return "none, or one that lacks a part"
    if isinstance(error, (TypeError, IndexError, AttributeError)):
        return f"one whose metadata has something other than OME-Zarr prescribes there ({error})"
    return str(error) or type(error).__name__


def _advice(source: Path | str) -> str:
    if address_of(source):
        return "Nothing else is read from a server. Check address, network and access, or copy the file here."
    return "Copy or export it again."


def _server_options(address: str) -> dict[str, Any] | None:
    """Return what makes fsspec give up a server that says nothing; by itself it waits 5 minutes a request."""
    protocol = address.partition(":")[0]
    if protocol in ("http", "https"):
        import aiohttp

        waits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        return {"client_kwargs": {"timeout": waits}}
    if protocol == "s3":
        seconds = SILENT_SECONDS / S3_TRIES
        once = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"max_attempts": 0}}
        return {"config_kwargs": once}
    return None


def _ome(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def _image_paths(group: Any) -> list[str]:
    """Return the paths of the images in a group: its own ('') or those below it."""
    ome = _ome(group)
    if ome.get("multiscales"):
        return [""]
    if "plate" in ome:
        wells = [well for well in _wells(ome) if well in group]
        return [f"{well}/{path}" for well in wells for path in _image_paths(group[well])]
    if "well" in ome:
        return [str(image["path"]) for image in ome["well"]["images"]]
    if "bioformats2raw.layout" in ome:
        listed = list(_ome(group["OME"]).get("series") or ()) if "OME" in group else []
        numbers = sorted((key for key in group.group_keys() if key.isdigit()), key=int)
        return [str(path) for path in listed or numbers if _ome(group[str(path)]).get("multiscales")]
    if isinstance(ome.get("labels"), list):
        return [str(path) for path in ome["labels"]]
    return []


def _wells(ome: Mapping[str, Any]) -> list[str]:
    return [str(well["path"]) for well in (ome.get("plate") or {}).get("wells") or ()][:MOST_IMAGES]


def _missing_wells(group: Any) -> list[str]:
    """Return a sentence where wells that a plate names are not in its store."""
    missing = [well for well in _wells(_ome(group)) if well not in group]
    if not missing:
        return []
    return [f"Missing from the plate and left out: {', '.join(missing)}. Copy it again to include them."]


def _multiscale(group: Any, name: str, source: Path | str, wanted: Wanted) -> Image:
    ome = _ome(group)
    scale = ome["multiscales"][0]
    first = scale["datasets"][0]
    array = _checked(group[first["path"]], source)
    named = scale.get("axes") or list(OLD_AXES[-len(array.shape) :])
    transformed = [first, scale]
    if scale.get("coordinateSystems"):
        named, transformed = _intrinsic_axes(scale, first), [first]
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in named]
    axes = letters_of([axis["name"] for axis in named])
    sizes, notices, interval_s = _sizes(named, axes, transformed)
    if len(ome["multiscales"]) > 1:
        notices.append(f"{name} describes {len(ome['multiscales'])} images in one group; the first is read.")
    channels = [one for one in (ome.get("omero") or {}).get("channels") or () if isinstance(one, dict)]
    known = ImageMetadata(
        sizes,
        [str(one.get("label") or one.get("name") or "") for one in channels],
        [f"#{str(one.get('color', 'ffffff')).lstrip('#').lower()[:6]}" for one in channels],
        notices,
        interval_s,
    )
    image = describe(array, axes, name, known)
    if wanted.has_levels:
        image = replace(image, levels=_levels(group, source))
    if not address_of(source):  # on a server each level would be a request more
        image = replace(image, notices=(*image.notices, *_misfits(group, array)))
    return image


def _intrinsic_axes(scale: Mapping[str, Any], first: Mapping[str, Any]) -> list[Any]:
    """Return the axes that the pixels of a resolution are mapped to, of 0.6, which may map them further."""
    output = first["coordinateTransformations"][0].get("output")
    name = output.get("name") if isinstance(output, dict) else output
    systems = {system["name"]: system["axes"] for system in scale["coordinateSystems"]}
    return systems.get(name) or scale["coordinateSystems"][0]["axes"]


def _sizes(
    named: Sequence[Mapping[str, Any]], axes: str, transformed: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], list[str], float]:
    """Return the micrometres per pixel, what to tell of scales that say nothing, the seconds per frame."""
    steps = [step for one in transformed for step in one.get("coordinateTransformations", ())]
    steps += [inner for step in steps for inner in step.get("transformations", ())]  # a sequence, since 0.6
    scales = [step["scale"] for step in steps if step["type"] == "scale"]
    unfit = [scale for scale in scales if len(scale) != len(named)]
    if unfit:
        notice = (
            f"Its scale {unfit[0]} does not have a number for each of its {len(named)} axes; it is left out."
        )
        return {}, [notice], 0.0
    if not scales:
        return {}, [], 0.0
    factors = np.prod(np.asarray(scales, float), axis=0)
    sizes, unknown, interval_s = {}, [], 0.0
    for letter, axis, factor in zip(axes, named, factors.tolist(), strict=False):
        per_unit, size = um_per(str(axis.get("unit", ""))), magnitude(factor)
        if letter in SPATIAL and per_unit and size:
            sizes[letter] = size * per_unit
        elif letter in SPATIAL and "unit" not in axis and factor != 1:
            unknown.append(f"{factor:g} in {letter.lower()}")
        elif letter == "T":
            interval_s = seconds_of(factor, str(axis.get("unit", "")))
    if unknown:
        return sizes, [f"Its scale has no unit and is left out: {', '.join(unknown)}."], interval_s
    return sizes, [], interval_s


def _misfits(group: Any, first: Any) -> list[str]:
    """Return a sentence where a level of the pyramid is not a smaller copy of the first, which is read."""
    wrong = []
    for one in _ome(group)["multiscales"][0]["datasets"][1:]:
        shape = getattr(group.get(one["path"]), "shape", ())
        if not _is_smaller_copy(shape, first.shape):
            wrong.append(f"{one['path']} of {shape or 'nothing'}")
    if not wrong:
        return []
    return [
        f"The levels of the pyramid disagree: the first, of {first.shape}, is read; no smaller copy of it is "
        f"{', '.join(wrong)}. Check whether the first is the full resolution."
    ]


def _is_smaller_copy(shape: Sequence[int], first: Sequence[int]) -> bool:
    """Return whether a level is nowhere larger than the first, and as many times smaller in Y as in X."""
    if len(shape) != len(first) or any(n > whole for n, whole in zip(shape, first, strict=True)):
        return False
    sides = list(zip(shape, first, strict=True))[-2:]
    least = max(whole / (n + LEVEL_ROUNDING_PX) for n, whole in sides)
    return all(whole >= least * (n - LEVEL_ROUNDING_PX) for n, whole in sides)


def _levels(group: Any, source: Path | str) -> tuple[Any, ...]:
    """Return the smaller copies of an image; none where one is damaged, for they are only to look at."""
    datasets = _ome(group)["multiscales"][0]["datasets"]
    try:
        arrays = [_checked(group[one["path"]], source) for one in datasets]
    except Exception:  # noqa: BLE001 - zarr fails in every possible way on damaged folders
        return ()
    is_pyramid = all(
        small.ndim == large.ndim and small.shape != large.shape and small.shape[-1] <= large.shape[-1]
        for large, small in pairwise(arrays)
    )
    return tuple(arrays[1:]) if is_pyramid else ()


def _checked(array: Any, source: Path | str) -> Any:
    """Return an array whose chunks can be read one by one, and unpack to no more than they are to hold."""
    n_bytes = prod(array.chunks) * array.dtype.itemsize
    if n_bytes > MOST_CHUNK_BYTES:
        raise ReadError(
            f"The chunks of {source} must be smaller than {MOST_CHUNK_BYTES >> 30} GiB; got {array.chunks} "
            f"of {array.dtype}. Write it again in smaller ones."
        )
    if array.nbytes > LEAST_BOMB_BYTES and not address_of(source):
        _refuse_missing(array, Path(source) / array.path)
    from cellwright.files.zarr_bounds import bounded

    return bounded(array)


def _refuse_missing(array: Any, folder: Path) -> None:
    """Raise ReadError where nearly all chunks of an array on disk are missing: its shape is a mistake."""
    n_chunks = prod(ceil(n / side) for n, side in zip(array.shape, array.shards or array.chunks, strict=True))
    least = n_chunks // MOST_TIMES_STORED
    stored = (path for path in folder.rglob("*") if path.is_file() and path.name not in METADATA)
    n_stored = sum(1 for _ in islice(stored, least))
    if n_stored < least:
        raise ReadError(
            f"The array in {folder} must have its chunks; of {n_chunks}, for {array.shape} of {array.dtype}, "
            f"{n_stored} are there. Copy it again."
        )


def chunk_px(axes: str) -> int:
    """Return the side of a chunk along Y and X of labels with these axes; shorter where there are slices."""
    if "Z" in axes:
        return CHUNK_PX // 2
    return CHUNK_PX


def create_array(folder: Path, image: Image, dtype: str = "int32") -> ArrayLike:
    """Return an empty array, compressed and in chunks, for labels or a map of an image; an old one is gone.

    WriteError where the folder cannot be written, or zarr is not installed.
    """
    zarr = _zarr()
    axes, shape = image.label_axes, image.label_shape
    side = chunk_px(axes)
    chunks = tuple(min(side, n) if axis in "YX" else 1 for axis, n in zip(axes, shape, strict=True))
    with writing(folder):
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        return group.create_array(
            "0", shape=shape, chunks=chunks, dtype=dtype, fill_value=0, dimension_names=tuple(axes.lower())
        )


def open_array(folder: Path) -> ArrayLike:
    """Return what :func:`create_array` made, to be read and written; ReadError where there is none."""
    zarr = _zarr()
    # zarr fails in every possible way on damaged folders
    with expecting(ReadError, f"an array in {folder}", "Count again into an empty folder.", Exception):
        return zarr.open_group(folder, mode="r+")["0"]


def small_level(folder: Path, least_px: int) -> tuple[ArrayLike, int]:
    """Return the smallest level with a side of at least so many pixels, and how many times smaller it is.

    Without such a level it is the first of the pyramid; ReadError where there is none.
    """
    open_array(folder)
    group, number = _zarr().open_group(folder, mode="r"), 0
    while str(number + 1) in group and max(group[str(number + 1)].shape[-2:]) >= least_px:
        number += 1
    return group[str(number)], 2**number


def finish_array(folder: Path, image: Image) -> None:
    """Add the levels of the pyramid and the metadata of OME-Zarr 0.5: axes, pixel sizes, image-label.

    Levels halve Y and X. Those of labels keep every other pixel, so that every level holds labels of the
    first; those of a map have the means of 2 x 2 pixels.

    Source: OME-Zarr 0.5, https://ngff.openmicroscopy.org/0.5/
    """
    from yaozarrs import v05

    zarr = _zarr()
    group = zarr.open_group(folder, mode="r+")
    axes, level, factors = image.label_axes, group["0"], [1]
    is_labels = level.dtype.kind == "i"
    with writing(folder):
        while max(level.shape[-2:]) > SMALLEST_LEVEL_PX:
            level = _halved(group, level, str(len(factors)), is_labels=is_labels)
            factors.append(2 * factors[-1])
        sizes = image.known_sizes_um
        datasets = []
        for index, factor in enumerate(factors):
            enlarged = {"Y": factor, "X": factor}
            scale = [sizes.get(axis, 1.0) * enlarged.get(axis, 1) for axis in axes]
            scaled = v05.ScaleTransformation(scale=scale)
            datasets.append(v05.Dataset(path=str(index), coordinateTransformations=[scaled]))
        named = [_axis(axis, sizes) for axis in axes]
        scales = v05.Multiscale(name=image.name, axes=named, datasets=datasets)
        ome = v05.Image(multiscales=[scales])
        if is_labels:
            ome = v05.LabelImage.model_validate({"multiscales": [scales], "image-label": v05.ImageLabel()})
        group.attrs["ome"] = ome.model_dump(mode="json", exclude_none=True, by_alias=True)


def _halved(group: Any, level: Any, name: str, *, is_labels: bool) -> Any:
    """Write the next level of a pyramid, window by window, and return it."""
    shape = (*level.shape[:-2], *(ceil(n / 2) for n in level.shape[-2:]))
    chunks = (*level.chunks[:-2], *(min(CHUNK_PX, n) for n in shape[-2:]))
    smaller = group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=level.dtype,
        fill_value=0,
        dimension_names=level.metadata.dimension_names,
        overwrite=True,
    )
    spans = [pieces(n, COPY_PX) for n in level.shape[-2:]]
    for lead in np.ndindex(*shape[:-2]):
        for rows, columns in product(*spans):
            halved = [slice(span.start // 2, ceil(span.stop / 2)) for span in (rows, columns)]
            pixels = level[(*lead, rows, columns)]
            reduced = pixels[::2, ::2]
            if not is_labels:
                even = np.pad(pixels, [(0, n % 2) for n in pixels.shape], mode="edge")
                reduced = even.reshape(len(even) // 2, 2, -1, 2).mean(axis=(1, 3))
            smaller[(*lead, *halved)] = reduced
    return smaller


def open_levels(folder: Path) -> list[ArrayLike]:
    """Return the levels of what :func:`finish_array` made as dask arrays, the finest first.

    Viewers draw whole chunks of what is in sight; theirs are smaller than those on disk.
    """
    import dask.array

    group = _zarr().open_group(folder, mode="r")
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    arrays = [group[one["path"]] for one in datasets]
    from_zarr: Any = dask.array.from_zarr  # which has no types
    return [from_zarr(array, chunks=(*array.chunks[:-2], SEEN_PX, SEEN_PX)) for array in arrays]


def missing_chunks(array: ArrayLike) -> str:
    """Return a sentence where chunks of a Zarr array, or shards, are not in its store on disk, else ``""``.

    By the standard what is missing has the fill value.
    """
    if not hasattr(array, "nchunks_initialized") or address_of(str(getattr(array, "store", ""))):
        return ""
    called, sides = "chunks", array.chunks
    if array.shards:
        called, sides = "shards", array.shards
    n_in_each = prod(side // chunk for side, chunk in zip(sides, array.chunks, strict=True))
    n_whole = prod(ceil(n / side) for n, side in zip(array.shape, sides, strict=True))
    n_missing = n_whole - array.nchunks_initialized // n_in_each
    if not n_missing:
        return ""
    return (
        f"{n_missing} of the {n_whole} {called} of the image are not in its store and were taken as "
        "empty, as the standard says. If there should be cells, copy the image again."
    )


def _axis(letter: str, sizes: dict[str, float]) -> Any:
    from yaozarrs import v05

    if letter not in SPATIAL:
        return v05.TimeAxis(name=letter.lower())
    return v05.SpaceAxis(name=letter.lower(), unit="micrometer" if letter in sizes else None)


def _zarr() -> Any:
    with needed(WriteError, "Writing OME-Zarr", "large"):
        import yaozarrs  # noqa: F401 - both are needed, and a count of hours must not end without them
        import zarr
    return zarr
