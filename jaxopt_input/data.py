"""Images in and out of files, through Pillow, and sets of them: folders, files and tensorflow-datasets.

Images read are float32 in [0, 1]. They are turned upright by their EXIF orientation; what is transparent is composited
on white; grays of 16 bits keep their depth; CMYK is converted without color profiles; of an animation the first frame
is read. Two things vary, and have names: the size asked for, and how an image of another shape is brought to it:

    center    the largest central region of the shape asked for, scaled
    imagenet  as center, of 224/256 of that extent, as classifiers on ImageNet are evaluated
    stretch   the whole image, its proportions changed
    pad       the whole image, with gray (0.5) beside it
"""

from __future__ import annotations

import collections
import dataclasses
import io
import os
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from jaxopt_input.errors import InputError, unknown
from jaxopt_input.models.model import Model

FITS = ("center", "imagenet", "stretch", "pad")
SUFFIXES = (".avif", ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def to_uint8(image: Any) -> np.ndarray:
    """Floats in [0, 1] rounded to 8 bits, any shape.

    Raises:
        ValueError: for numbers that are not finite.

    Example:
        >>> to_uint8([0.0, 0.5, 1.0]).tolist()
        [0, 128, 255]
    """
    array = np.asarray(image, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("an image with numbers that are not finite cannot be written")
    return np.floor(np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)


def to_pillow(image: Any) -> Image.Image:
    """A Pillow image of `[H, W, C]` floats in [0, 1] or 8-bit integers, C being 1 or 3."""
    array = np.asarray(image)
    array = array if array.dtype == np.uint8 else to_uint8(array)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_png(path: str | os.PathLike[str], image: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write an image as PNG, atomically, the same bytes for the same input.

    Args:
        path: the file; its folder exists.
        image: `[H, W, C]` floats in [0, 1] or 8-bit integers (C is 1 or 3), or a Pillow image.
        metadata: text to keep inside the file, by keyword.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> save_png(file, np.zeros((2, 2, 3)), {"target": "class:3"})
        >>> Image.open(file).text
        {'target': 'class:3'}
    """
    info = PngImagePlugin.PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_text(keyword, text)
    with atomic(path) as part:
        picture = image if isinstance(image, Image.Image) else to_pillow(image)
        picture.save(part, format="PNG", pnginfo=info)


class atomic:
    """A temporary path beside `path` that takes its place on leaving, and goes without trace on an exception.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(file) as part:
        ...     _ = part.write_text("whole")
        >>> file.read_text()
        'whole'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}-", suffix=self.path.suffix)
        os.close(handle)
        self.part = Path(name)
        return self.part

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            umask = os.umask(0)
            os.umask(umask)
            self.part.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


def read_image(
    file: str | os.PathLike[str], image_shape: Sequence[int] | None = None, *, fit: str = "center"
) -> np.ndarray:
    """One image file as float32 `[H, W, C]` in [0, 1].

    Args:
        file: a file of any format that Pillow reads.
        image_shape: (height, width, channels), channels being 1 or 3; its own size in RGB if None.
        fit: one of `FITS`: how an image of another shape is brought to this one.

    Raises:
        InputError: for a file that is missing, truncated or no image, or an unknown `fit`.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> save_png(file, np.ones((4, 8, 3)))
        >>> read_image(file).shape, read_image(file, (2, 2, 1)).ravel().tolist()
        ((4, 8, 3), [1.0, 1.0, 1.0, 1.0])
    """
    shape = None if image_shape is None else _checked_shape(image_shape, fit)
    return _decode(_bytes(Path(file)), str(file), shape, fit)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _checked_shape(image_shape: Sequence[int], fit: str) -> tuple[int, int, int]:
    if fit not in FITS:
        raise unknown("fit", fit, FITS)
    shape = tuple(int(n) for n in image_shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise InputError(f"images are read with shape (height, width, 1 or 3), not {shape}")
    return shape


def _decode(data: bytes, name: str, shape: tuple[int, int, int] | None, fit: str) -> np.ndarray:
    """The float32 `[H, W, C]` of an encoded image."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            image = _plain(_upright(opened))
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image of any format that Pillow reads") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{name} is a damaged or unreadable image: {reason}") from error
    channels = 3
    if shape is not None:
        image, channels = _fit(image, shape[1], shape[0], fit), shape[2]
    if image.mode != "F":
        image = image.convert("RGB" if channels == 3 else "L")
        array = np.asarray(image, np.float32) / np.float32(255)
    else:
        array = np.clip(np.asarray(image, np.float32), 0, 1)
    if array.ndim == 2:
        array = np.repeat(array[..., None], channels, axis=2)
    return array


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; damaged EXIF turns nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return image


def _plain(image: Image.Image) -> Image.Image:
    """An image of mode RGB, L, or F in [0, 1]."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds numbers that are not finite")
        top = 1 if image.mode.startswith("F") else 65535
        if values.min() < 0 or values.max() > top:
            raise ValueError(f"its {image.mode} values reach from {values.min():g} to {values.max():g}, not 0 to {top}")
        return Image.fromarray(values / np.float32(top))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        # a premultiplied or palette mode becomes RGBA only by way of its own straight form
        layer = image.convert("LA") if image.mode == "La" else image
        layer = layer.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")


def _fit(image: Image.Image, width: int, height: int, fit: str) -> Image.Image:
    """The image at this size, by one of `FITS`; bicubic, low-passed where it shrinks."""
    own = image.size
    if fit == "stretch":
        return image if own == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    if fit == "pad":
        scale = min(width / own[0], height / own[1])
        inner = (max(1, round(own[0] * scale)), max(1, round(own[1] * scale)))
        resized = image if own == inner else image.resize(inner, Image.Resampling.BICUBIC)
        gray: Any = {"RGB": (128, 128, 128), "L": 128, "F": 0.5}[image.mode]
        canvas = Image.new(image.mode, (width, height), gray)
        canvas.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas
    if fit == "center" and own == (width, height):
        return image
    scale = max(width / own[0], height / own[1]) * (256 / 224 if fit == "imagenet" else 1)
    left, top = max(0.0, (own[0] - width / scale) / 2), max(0.0, (own[1] - height / scale) / 2)
    box = (left, top, own[0] - left, own[1] - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


class Batch(NamedTuple):
    """Images of a `Dataset`.

    Attributes:
        images: float32 `[N, H, W, C]` in [0, 1].
        labels: int32 `[N]`: the model's class indices; -1 where there is no label.
        names: N file names, or names within the set.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class _Encoded(NamedTuple):
    """One image as it lies in its file."""

    data: bytes
    label: int
    name: str


class _Source(Protocol):
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[_Encoded]:
        """The encoded images of these indices; called from several threads."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images with labels, read and decoded batch by batch: memory does not grow with the images' number.

    Attributes:
        name: where it came from.
        classes: the names of its classes, as the set itself calls them.
        image_shape: (height, width, channels) of its images.
        fit: one of `FITS`.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    fit: str
    _source: _Source = dataclasses.field(repr=False)
    _indices: Sequence[int] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self._indices)

    def select(self, indices: Sequence[int]) -> Dataset:
        """The part of it with these positions, such as `range(100)`; lazily.

        Raises:
            InputError: for a position that does not exist.
        """
        if len(indices) and not 0 <= min(indices) <= max(indices) < len(self):
            raise InputError(f"{self.name} has images 0 to {len(self) - 1}, not {min(indices)} to {max(indices)}")
        return dataclasses.replace(self, _indices=[self._indices[i] for i in indices])

    def batches(self, size: int = 64, *, workers: int | None = None) -> Iterator[Batch]:
        """Its images in order, `size` at a time (fewer in the last), decoded ahead on threads.

        Args:
            size: images a batch; at most three batches are held at once.
            workers: threads; one a CPU core if None. The result does not depend on it.

        Raises:
            InputError: for a file that is damaged or no image.

        Example:
            >>> folder_path = Path(tempfile.mkdtemp())
            >>> for k in range(3):
            ...     save_png(folder_path / f"{k}.png", np.full((4, 4, 3), k / 2))
            >>> dataset = folder(folder_path, image_shape=(2, 2, 3))
            >>> [(b.images.shape, b.images[0, 0, 0, 0].item()) for b in dataset.batches(2)]
            [((2, 2, 2, 3), 0.0), ((1, 2, 2, 3), 1.0)]
        """
        if size < 1:
            raise InputError(f"a batch holds at least one image, not {size}")
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="jaxopt-input-images")
        waiting: collections.deque[tuple[np.ndarray, list[Future[list[tuple[int, str]]]]]] = collections.deque()
        try:
            for start in range(0, len(self), size):
                chosen = self._indices[start : start + size]
                images = np.empty((len(chosen), *self.image_shape), np.float32)
                parts = range(0, len(chosen), _PART)
                waiting.append(
                    (images, [pool.submit(self._fill, images[a : a + _PART], chosen[a : a + _PART]) for a in parts])
                )
                if len(waiting) > 2:
                    yield _gather(*waiting.popleft())
            while waiting:
                yield _gather(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _fill(self, images: np.ndarray, indices: Sequence[int]) -> list[tuple[int, str]]:
        encoded = self._source.read(indices)
        for k, item in enumerate(encoded):
            images[k] = _decode(item.data, item.name, self.image_shape, self.fit)
        return [(item.label, item.name) for item in encoded]


_PART = 16  # images that a thread decodes at once: short enough to share the work, long enough to be worth a hand-over


def _gather(images: np.ndarray, parts: list[Future[list[tuple[int, str]]]]) -> Batch:
    told = [item for part in parts for item in part.result()]
    return Batch(images, np.asarray([label for label, _ in told], np.int32), tuple(name for _, name in told))


@dataclasses.dataclass(frozen=True)
class _Files:
    """Image files with a label each."""

    paths: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> list[_Encoded]:
        return [_Encoded(_bytes(Path(self.paths[i])), self.labels[i], self.paths[i]) for i in indices]


def files(
    paths: Sequence[str | os.PathLike[str]],
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
) -> Dataset:
    """Single image files as a data set without labels.

    Args:
        paths: the files.
        model: whose image shape to take.
        image_shape: (height, width, channels), in place of the model's.
        fit: one of `FITS`.

    Raises:
        InputError: for no file, or one that is missing.
    """
    names = [os.fspath(path) for path in paths]
    if not names:
        raise InputError("no image files were given")
    for name in names:
        if not os.path.isfile(name):
            raise InputError(f"no image file {name}")
    return _dataset(_Files(names, [-1] * len(names)), names[0], (), model, image_shape, fit)


def folder(
    path: str | os.PathLike[str],
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
) -> Dataset:
    """A folder of images, in one sub-folder a class or without labels; read in order of their names.

    A class folder may hold its images at any depth. Files with other suffixes than an image's, and hidden ones, are
    passed over.

    Args:
        path: the folder.
        model: whose classes the sub-folders name, by WordNet id, label or index; and whose image shape to take.
            Without one, classes are numbered in order of their names.
        image_shape: (height, width, channels), in place of the model's.
        fit: one of `FITS`.

    Raises:
        InputError: for a folder that is missing or empty, or a class folder that the model does not know.

    Example:
        >>> path = Path(tempfile.mkdtemp())
        >>> for name in ("dog", "ant"):
        ...     (path / name).mkdir()
        ...     save_png(path / name / "1.png", np.ones((4, 4, 3)))
        >>> dataset = folder(path, image_shape=(4, 4, 3))
        >>> dataset.classes, [batch.labels.tolist() for batch in dataset.batches()]
        (('ant', 'dog'), [[0, 1]])
    """
    root = os.fspath(path)
    if not os.path.isdir(root):
        raise InputError(f"no folder {root}")
    loose = _images(root, deep=False)
    classes = {entry.name: _images(entry.path) for entry in _visible(root) if entry.is_dir()}
    if loose and any(classes.values()):
        raise InputError(f"{root} holds images beside its class folders, such as {os.path.basename(loose[0])}")
    if loose:
        return _dataset(_Files(loose, [-1] * len(loose)), root, (), model, image_shape, fit)
    if not classes:
        raise InputError(f"the folder {root} holds no images ({', '.join(SUFFIXES)})")
    for name, paths in classes.items():
        if not paths:
            raise InputError(f"the class folder {os.path.join(root, name)} holds no images ({', '.join(SUFFIXES)})")
    indices = _class_indices(tuple(classes), model, f"the class folder {root}{os.sep}{{}}")
    paths = [file for group in classes.values() for file in group]
    labels = np.repeat(np.asarray(indices, np.int32), [len(group) for group in classes.values()])
    return _dataset(_Files(paths, labels.tolist()), root, tuple(classes), model, image_shape, fit)


def _visible(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as found:
        return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _images(path: str, *, deep: bool = True) -> list[str]:
    """The image files of a folder, in order of their names."""
    found: list[str] = []
    for entry in _visible(path):
        if entry.is_dir():
            found += _images(entry.path) if deep else []
        elif entry.name.casefold().endswith(SUFFIXES):
            found.append(entry.path)
    return found


def _class_indices(names: Sequence[str], model: Model | None, what: str) -> list[int]:
    """The model's class index of each name; their order without a model."""
    if model is None:
        return list(range(len(names)))
    indices = []
    for name in names:
        try:
            indices.append(model.info.class_index(name))
        except InputError as error:
            raise InputError(f"{what.format(name)} is no class of {model.info.name}: {error}") from error
    return indices


def _dataset(
    source: _Source,
    name: str,
    classes: tuple[str, ...],
    model: Model | None,
    image_shape: Sequence[int] | None,
    fit: str,
) -> Dataset:
    if image_shape is None and model is None:
        raise InputError("give a model or an image_shape, to which the images are brought")
    shape = _checked_shape(image_shape if image_shape is not None else model.info.image_shape, fit)  # type: ignore[union-attr]
    return Dataset(name, classes, shape, fit, source, range(len(source)))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A split of tensorflow-datasets, with random access."""

    records: Any
    image: str
    label: str | None
    indices: Sequence[int]
    name: str
    lock: threading.Lock

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: Sequence[int]) -> list[_Encoded]:
        with self.lock:
            records = self.records.__getitems__([int(i) for i in indices])
        return [
            _Encoded(record[self.image], self._label(record), f"{self.name}[{i}]")
            for i, record in zip(indices, records, strict=True)
        ]

    def _label(self, record: Mapping[str, Any]) -> int:
        if self.label is None or int(record[self.label]) < 0:
            return -1
        return self.indices[int(record[self.label])]


def named(
    name: str,
    split: str | None = None,
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A set of tensorflow-datasets that is prepared as array_record; TensorFlow is not needed to read it.

    Nothing is downloaded. `tfds build NAME --file_format=array_record` prepares one.

    Args:
        name: its name, with configuration and version where wanted: "cifar10", "imagenet_resized/64x64".
        split: such as "test" or "train[:10%]"; may be None where there is only one.
        model: whose classes the set's own names or indices are, and whose image shape to take; without one, labels are
            the set's.
        image_shape: (height, width, channels), in place of the model's.
        fit: one of `FITS`.
        data_dir: where sets are kept; tensorflow-datasets' own default if None.

    Raises:
        InputError: for an unknown set or split, one that is not prepared or in another format, one without images, or
            with a class that the model does not know.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]
    from tensorflow_datasets.core.registered import DatasetNotFoundError  # type: ignore[import-untyped]

    where = os.fspath(data_dir) if data_dir is not None else None
    try:
        builder = tfds.builder(name, data_dir=where)
    except DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown("tensorflow-datasets set", name, known) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"tensorflow-datasets cannot open {name!r}: {_line(error)}") from error
    splits = list(builder.info.splits)
    if not splits:
        raise InputError(
            f"the tensorflow-datasets set {name} is not prepared in {builder.data_dir}: run "
            f"`tfds build {name} --file_format=array_record`, or name its folder"
        )
    if split is None:
        if len(splits) > 1:
            raise InputError(f"{name} has the splits {', '.join(splits)}: name one, such as {name}:{splits[-1]}")
        split = splits[0]
    features = builder.info.features
    kinds = {key: type(feature).__name__ for key, feature in dict(features).items()} if _is_dict(features) else {}
    image = next((key for key, kind in kinds.items() if kind == "Image"), None)
    label = next((key for key, kind in kinds.items() if kind == "ClassLabel"), None)
    if image is None:
        raise InputError(f"{name} has no images: its features are {', '.join(kinds) or 'unnamed'}")
    try:
        records = builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        kind = builder.info.file_format.value
        raise InputError(
            f"{name} is prepared as {kind}, which needs TensorFlow: run `tfds build {name} --file_format=array_record`"
        ) from error
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"cannot read split {split!r} of {name} (splits: {', '.join(splits)}): {_line(error)}"
        ) from error
    classes = _names(features[label]) if label else ()
    indices = _class_indices(classes, model, f"class {{}} of {name}") if label else []
    source = _Prepared(records, image, label, indices, f"{name}:{split}", threading.Lock())
    return _dataset(source, source.name, classes, model, image_shape, fit)


def _is_dict(features: Any) -> bool:
    return hasattr(features, "items")


def _names(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel, or its indices where it has none."""
    try:
        return tuple(feature.names)
    except ValueError:
        return tuple(str(k) for k in range(feature.num_classes))


def _line(error: Exception) -> str:
    return str(error).strip().strip("'\"").split("\n")[0] or type(error).__name__


def load(
    what: str,
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
) -> Dataset:
    """A data set by what a command line would name: a folder, a file, or `NAME:SPLIT` of tensorflow-datasets.

    Raises:
        InputError: as `folder`, `files` and `named` do.
    """
    if os.path.isdir(what):
        return folder(what, model, image_shape=image_shape, fit=fit)
    if os.path.isfile(what) or what.casefold().endswith(SUFFIXES):
        return files([what], model, image_shape=image_shape, fit=fit)
    if what.startswith((".", "~", os.sep)):
        raise InputError(f"no folder or file {what}")
    name, _, split = what.partition(":")
    return named(name, split or None, model, image_shape=image_shape, fit=fit)
