"""Sets of images with labels, read batch by batch: folders, lists of files, and tensorflow-datasets."""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxopt_input.checks import count
from jaxopt_input.data.pictures import SUFFIXES, decode, fitting_shape
from jaxopt_input.disk import StrPath, read_bytes
from jaxopt_input.errors import InputError, InputWarning, one_line, printable, system_errors, unknown
from jaxopt_input.models.model import Model


class Batch(NamedTuple):
    """Images of a `Dataset`.

    Attributes:
        images: float32 `[N, H, W, C]` in [0, 1].
        labels: int32 `[N]`: the model's class indices; -1 where there is no label.
        names: N file names, or names within the set; bytes that are not UTF-8 are escaped.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Encoded(NamedTuple):
    """One image as it lies in its file."""

    data: bytes
    label: int
    name: str


class _Source(Protocol):
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Encoded]:
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
            size: images in a batch; at most three batches are held at once.
            workers: threads; one per CPU core if None. The result does not depend on it.

        Raises:
            InputError: for a file that is damaged or no image.

        Example:
            >>> import pathlib, tempfile
            >>> from jaxopt_input.data import save_png
            >>> folder_path = pathlib.Path(tempfile.mkdtemp())
            >>> for k in range(3):
            ...     save_png(folder_path / f"{k}.png", np.full((4, 4, 3), k / 2))
            >>> dataset = folder(folder_path, image_shape=(2, 2, 3))
            >>> [(b.images.shape, b.images[0, 0, 0, 0].item()) for b in dataset.batches(2)]
            [((2, 2, 2, 3), 0.0), ((1, 2, 2, 3), 1.0)]
        """
        size = count("the size of a batch", size)
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="jaxopt-input-images")
        waiting: collections.deque[tuple[np.ndarray, list[Future[list[tuple[int, str]]]]]] = collections.deque()
        try:
            for start in range(0, len(self), size):
                indices = self._indices[start : start + size]
                images = np.empty((len(indices), *self.image_shape), np.float32)
                parts = range(0, len(indices), _PART)
                waiting.append(
                    (images, [pool.submit(self._fill, images[a : a + _PART], indices[a : a + _PART]) for a in parts])
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
            images[k] = decode(item.data, item.name, self.image_shape, self.fit)
        return [(item.label, printable(item.name)) for item in encoded]

    def intact(self) -> Dataset:
        """The part of it that can be read, each image decoded once to see; an `InputWarning` names the rest.

        Raises:
            InputError: if no image can be read.
        """

        def error_of(index: int) -> str | None:
            try:
                [item] = self._source.read([index])
                decode(item.data, item.name, self.image_shape, self.fit)
            except InputError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="jaxopt-input-images") as pool:
            errors = list(pool.map(error_of, self._indices))
        damaged = [error for error in errors if error is not None]
        if len(damaged) == len(self):
            raise InputError(f"no image of {self.name} can be read: {damaged[0]}")
        if damaged:
            warnings.warn(f"{_some('damaged image', damaged)} skipped", InputWarning, stacklevel=2)
        return dataclasses.replace(self, _indices=[i for i, e in zip(self._indices, errors, strict=True) if e is None])


def _some(what: str, items: Sequence[str], most: int = 8) -> str:
    """So many of something, with the first of them."""
    listing = "; ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
    return f"{len(items)} {what}{'s' * (len(items) > 1)} ({listing})"


_PART = 16  # images that a thread decodes at once: short enough to share the work, long enough to be worth a hand-over


def _gather(images: np.ndarray, parts: list[Future[list[tuple[int, str]]]]) -> Batch:
    items = [item for part in parts for item in part.result()]
    return Batch(images, np.asarray([label for label, _ in items], np.int32), tuple(name for _, name in items))


@dataclasses.dataclass(frozen=True)
class _Files:
    """Image files with a label each."""

    paths: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> list[Encoded]:
        return [Encoded(read_bytes(self.paths[i]), self.labels[i], self.paths[i]) for i in indices]


def files(
    paths: Sequence[StrPath],
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
) -> Dataset:
    """Single image files as a data set without labels.

    Args:
        paths: the files.
        model, image_shape, fit: as of `folder`.

    Raises:
        InputError: for no file, or one that is missing.
    """
    names = [os.fspath(path) for path in paths]
    if not names:
        raise InputError("no image files were given")
    for name in names:
        if not os.path.isfile(name):
            raise InputError(f"{name} is no regular file" if os.path.exists(name) else f"no image file {name}")
    return dataset_of(_Files(names, [-1] * len(names)), names[0], (), model, image_shape, fit)


def folder(
    path: StrPath,
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
) -> Dataset:
    """A folder of images, in one sub-folder a class or without labels; read in order of their names.

    A class folder may hold its images at any depth. Hidden files are passed over, and others whose suffix is no
    image's, with an `InputWarning` that counts them.

    Args:
        path: the folder.
        model: whose classes the sub-folders name, by WordNet id, label or index; and whose image shape to take.
            Without one, classes are numbered in order of their names.
        image_shape: (height, width, channels), in place of the model's.
        fit: one of `FITS`.

    Raises:
        InputError: for a folder that is missing, empty or cannot be read to its end, or a class folder that the model
            does not know.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxopt_input.data import save_png
        >>> path = pathlib.Path(tempfile.mkdtemp())
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
    others: list[str] = []
    loose = _images(root, others, deep=False)
    classes = {entry.name: _images(entry.path, others) for entry in _visible(root) if entry.is_dir()}
    if others and (loose or any(classes.values())):
        text = f"{_some('file', others, 3)} in {root} passed over: no suffix of an image"
        warnings.warn(text, InputWarning, stacklevel=2)
    if loose and any(classes.values()):
        raise InputError(f"{root} holds images beside its class folders, such as {os.path.basename(loose[0])}")
    if loose:
        return dataset_of(_Files(loose, [-1] * len(loose)), root, (), model, image_shape, fit)
    if not classes:
        raise InputError(f"the folder {root} holds no images ({', '.join(SUFFIXES)})")
    for name, paths in classes.items():
        if not paths:
            raise InputError(f"the class folder {os.path.join(root, name)} holds no images ({', '.join(SUFFIXES)})")
    indices = _class_indices(tuple(classes), model, f"the class folder {root}{os.sep}{{}}")
    paths = [file for group in classes.values() for file in group]
    labels = np.repeat(np.asarray(indices, np.int32), [len(group) for group in classes.values()])
    return dataset_of(_Files(paths, labels.tolist()), root, tuple(classes), model, image_shape, fit)


def _visible(path: str) -> list[os.DirEntry[str]]:
    with system_errors(f"read the folder {path}"), os.scandir(path) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _images(path: str, others: list[str], *, deep: bool = True, above: tuple[str, ...] = ()) -> list[str]:
    """The image files of a folder, in order of their names; `others` gets the names of its other files."""
    here = os.path.realpath(path)
    if here in above:
        raise InputError(f"the folder {path} is a link to one that holds it: remove the link")
    paths: list[str] = []
    for entry in _visible(path):
        if entry.is_dir():
            paths += _images(entry.path, others, above=(*above, here)) if deep else []
        elif entry.name.casefold().endswith(SUFFIXES):
            paths.append(entry.path)
        else:
            others.append(entry.name)
    return paths


def _class_indices(names: Sequence[str], model: Model | None, what: str) -> list[int]:
    """The model's class index of each name; their order without a model."""
    if model is None:
        return list(range(len(names)))
    indices = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InputWarning)
        for name in names:
            try:
                indices.append(model.info.class_index(name))
            except InputError as error:
                raise InputError(f"{what.format(name)} is no class of {model.info.name}: {error}") from error
    if lines := [str(warning.message) for warning in said]:
        more = f"; likewise {len(lines) - 1} more" if len(lines) > 1 else ""
        warnings.warn(lines[0] + more, InputWarning, stacklevel=3)
    return indices


def dataset_of(
    source: _Source,
    name: str,
    classes: tuple[str, ...],
    model: Model | None,
    image_shape: Sequence[int] | None,
    fit: str,
) -> Dataset:
    if image_shape is None and model is None:
        raise InputError("give a model or an image_shape, to which the images are brought")
    shape = fitting_shape(image_shape if image_shape is not None else model.info.image_shape, fit)  # type: ignore[union-attr]
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

    def read(self, indices: Sequence[int]) -> list[Encoded]:
        with self.lock:
            records = self.records.__getitems__([int(i) for i in indices])
        return [
            Encoded(record[self.image], self._label(record), f"{self.name}[{i}]")
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
    data_dir: StrPath | None = None,
) -> Dataset:
    """A set of tensorflow-datasets that is prepared as array_record; TensorFlow is not needed to read it.

    Nothing is downloaded. `tfds build NAME --file_format=array_record` prepares one.

    Args:
        name: its name, with configuration and version where wanted: "cifar10", "imagenet_resized/64x64".
        split: such as "test" or "train[:10%]"; may be None where there is only one.
        model: whose classes the set's own names or indices are, and whose image shape to take; without one, labels are
            the set's.
        image_shape, fit: as of `folder`.
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
        builders = tfds.list_builders(with_community_datasets=False)
        raise unknown("tensorflow-datasets set", name, builders) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"tensorflow-datasets cannot open {name!r}: {_plain(error)}") from error
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
    kinds = (
        {key: type(feature).__name__ for key, feature in dict(features).items()} if hasattr(features, "items") else {}
    )
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
            f"cannot read split {split!r} of {name} (splits: {', '.join(splits)}): {_plain(error)}"
        ) from error
    classes = _names(features[label]) if label else ()
    indices = _class_indices(classes, model, f"class {{}} of {name}") if label else []
    source = _Prepared(records, image, label, indices, f"{name}:{split}", threading.Lock())
    return dataset_of(source, source.name, classes, model, image_shape, fit)


def _plain(error: Exception) -> str:
    """The first line of an error, which a KeyError quotes."""
    return one_line(error).strip("'\"")


def _names(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel, or its indices where it has none."""
    try:
        return tuple(feature.names)
    except ValueError:
        return tuple(map(str, range(feature.num_classes)))


def load(
    what: str,
    model: Model | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    fit: str = "center",
    skip_damaged: bool = False,
) -> Dataset:
    """A data set by what a command line would name: a folder, a file, or `NAME:SPLIT` of tensorflow-datasets.

    Args:
        what: its name.
        model, image_shape, fit: as of `folder`.
        skip_damaged: whether to leave out images that cannot be read, as `Dataset.intact` does.

    Raises:
        InputError: as `folder`, `files` and `named` do.
    """
    if skip_damaged:
        return load(what, model, image_shape=image_shape, fit=fit).intact()
    if os.path.isdir(what):
        return folder(what, model, image_shape=image_shape, fit=fit)
    if os.path.exists(what) or what.casefold().endswith(SUFFIXES):
        return files([what], model, image_shape=image_shape, fit=fit)
    if what.startswith((".", "~", os.sep)):
        raise InputError(f"no folder or file {what}")
    name, _, split = what.partition(":")
    return named(name, split or None, model, image_shape=image_shape, fit=fit)
