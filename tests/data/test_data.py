"""Image files of every kind, folders, and prepared sets of tensorflow-datasets."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxopt_input as joi
from jaxopt_input import data

ROWS, COLUMNS = 6, 8
RGB = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)
GRAY = RGB[..., 0]
ALPHA = np.full((ROWS, COLUMNS), 255, np.uint8)
ALPHA[:3] = 51  # a fifth


@pytest.fixture(scope="module")
def model():
    labels, synonyms = ("ant", "polar bear"), (("n01",), ("n02", "ice bear"))
    model = joi.from_function(
        lambda params, x, taps: {"logits": x.mean((1, 2))[:, :2] * params},
        jnp.ones(2),
        image_shape=(4, 4, 3),
        taps=("logits",),
        labels=labels,
        name="toy",
    )
    return dataclasses.replace(model, info=dataclasses.replace(model.info, synonyms=synonyms))


def saved(tmp_path, image, suffix=".png", **keywords):
    path = tmp_path / f"image{suffix}"
    image.save(path, **keywords)
    return path


def bytes_of(image):
    return np.rint(image * 255).astype(np.int32)


def over_white(image, alpha):
    return image * (alpha[..., None] / 255) + 255.0 - alpha[..., None]


def palette(image):
    return image.quantize(16, dither=Image.Dither.NONE)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_rgb_is_exact(tmp_path, suffix):
    image = data.read_image(saved(tmp_path, Image.fromarray(RGB), suffix))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(bytes_of(image), RGB)


def test_jpeg_and_webp_are_close(tmp_path):
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).repeat(3, 2).astype(np.uint8)
    for suffix in (".jpg", ".webp"):
        found = data.read_image(saved(tmp_path, Image.fromarray(smooth), suffix, quality=95))
        assert np.abs(bytes_of(found) - smooth).max() <= 8


def test_gray_palette_and_bilevel(tmp_path):
    gray = data.read_image(saved(tmp_path, Image.fromarray(GRAY)))
    np.testing.assert_array_equal(bytes_of(gray), np.repeat(GRAY[..., None], 3, 2))
    indexed = palette(Image.fromarray(RGB))
    found = data.read_image(saved(tmp_path, indexed))
    np.testing.assert_array_equal(bytes_of(found), np.asarray(indexed.convert("RGB")))
    bilevel = data.read_image(saved(tmp_path, Image.fromarray(GRAY > 127)))
    np.testing.assert_array_equal(bilevel[..., 1], (GRAY > 127).astype(np.float32))


def test_one_channel_is_luma(tmp_path):
    image = data.read_image(saved(tmp_path, Image.fromarray(RGB)), (ROWS, COLUMNS, 1))
    assert image.shape == (ROWS, COLUMNS, 1)
    np.testing.assert_allclose(image[..., 0] * 255, RGB @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_is_composited_on_white(tmp_path, suffix):
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    found = data.read_image(saved(tmp_path, image, suffix))
    np.testing.assert_allclose(found * 255, over_white(RGB.astype(float), ALPHA), atol=1)
    gray = data.read_image(saved(tmp_path, Image.fromarray(np.dstack([GRAY, ALPHA])), ".png"))
    np.testing.assert_allclose(gray[..., 2] * 255, over_white(GRAY[..., None].astype(float), ALPHA)[..., 0], atol=1)


def test_transparent_palette_color_and_gray(tmp_path):
    indexed = palette(Image.fromarray(RGB))
    key = indexed.getpixel((2, 3))
    found = data.read_image(saved(tmp_path, indexed, transparency=key))
    transparent = np.asarray(indexed) == key
    np.testing.assert_array_equal(found[transparent], 1)
    np.testing.assert_array_equal(bytes_of(found)[~transparent], np.asarray(indexed.convert("RGB"))[~transparent])
    found = data.read_image(saved(tmp_path, Image.fromarray(RGB), transparency=tuple(int(v) for v in RGB[1, 1])))
    assert found[1, 1].tolist() == [1, 1, 1]
    found = data.read_image(saved(tmp_path, Image.fromarray(GRAY), transparency=int(GRAY[1, 1])))
    assert found[1, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bit_gray_keeps_its_depth(tmp_path, suffix):
    deep = np.random.default_rng(1).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
    found = data.read_image(saved(tmp_path, Image.fromarray(deep), suffix))
    assert found.shape == (ROWS, COLUMNS, 3)
    np.testing.assert_allclose(found[..., 0], deep / 65535, atol=1e-7)
    small = data.read_image(tmp_path / f"image{suffix}", (3, 4, 1), fit="stretch")
    expected = Image.fromarray((deep / 65535).astype(np.float32)).resize((4, 3), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(small[..., 0], np.clip(expected, 0, 1), atol=1e-6)


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    found = data.read_image(saved(tmp_path, Image.fromarray(values), ".tiff"))
    np.testing.assert_array_equal(found[..., 0], values)
    with pytest.raises(joi.InputError, match="not 0 to 1"):
        data.read_image(saved(tmp_path, Image.fromarray(values * 300), ".tiff"))


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_cmyk(tmp_path, suffix):
    colors = np.zeros((16, 48, 3), np.uint8)
    colors[:, :16], colors[:, 16:32], colors[:, 32:] = (255, 0, 0), (0, 0, 255), (250, 250, 250)
    path = saved(tmp_path, Image.fromarray(colors).convert("CMYK"), suffix)
    assert Image.open(path).mode == "CMYK"
    found = data.read_image(path)
    np.testing.assert_allclose(found[8, [8, 24, 40]] * 255, colors[8, [8, 24, 40]], atol=8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turns[orientation](RGB))  # what a camera stores that was held so
    found = data.read_image(saved(tmp_path, Image.fromarray(stored), exif=exif))
    np.testing.assert_array_equal(bytes_of(found), RGB)


def test_damaged_exif_turns_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff nonsense")
    np.testing.assert_array_equal(bytes_of(data.read_image(path)), RGB)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    path = saved(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(data.read_image(path), np.broadcast_to([1, 0, 0], (4, 5, 3)))


def test_fits(tmp_path):
    """Columns 0 to 7 of a 4x8 image are told apart by their brightness."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None] * 30, (4, 8, 3))
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(ramp)))
    np.testing.assert_array_equal(bytes_of(data.read_image(path, (4, 4, 3)))[0, :, 0], [60, 90, 120, 150])
    stretched = bytes_of(data.read_image(path, (4, 4, 3), fit="stretch"))[0, :, 0]
    np.testing.assert_allclose(stretched, [15, 75, 135, 195], atol=4)
    padded = bytes_of(data.read_image(path, (8, 8, 3), fit="pad"))
    np.testing.assert_array_equal(padded[2:6], ramp)
    assert set(padded[[0, 1, 6, 7]].ravel()) == {128}
    tall = data.read_image(path, (8, 4, 3))  # twice as large, the middle two columns
    assert tall.shape == (8, 4, 3)
    assert 80 < bytes_of(tall).mean() < 130
    one = data.read_image(path, (1, 1, 3), fit="pad")
    assert one.shape == (1, 1, 3)


def test_imagenet_fit_is_the_middle_224_of_256(tmp_path):
    photo = np.random.default_rng(2).integers(0, 256, (256, 256, 3), np.uint8)
    found = data.read_image(saved(tmp_path, Image.fromarray(photo)), (224, 224, 3), fit="imagenet")
    np.testing.assert_array_equal(bytes_of(found), photo[16:240, 16:240])


def truncated(kind, **keywords):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)).save(file, kind, **keywords)
    return file.getvalue()[: len(file.getvalue()) // 2]


BAD = {
    "text.png": (b"this is no image", "not an image"),
    "empty.jpg": (b"", "not an image"),
    "truncated.jpg": (truncated("JPEG"), "damaged"),
    "truncated.png": (truncated("PNG"), "damaged"),
    "truncated.webp": (truncated("WEBP"), "damaged|not an image"),
    "truncated.tiff": (truncated("TIFF"), "damaged|not an image"),
    "truncated.gif": (truncated("GIF"), "damaged"),
    "truncated.bmp": (truncated("BMP"), "damaged"),
    "header.png": (truncated("PNG")[:20], "damaged|not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_told_in_one_line(tmp_path, name):
    content, hint = BAD[name]
    (tmp_path / name).write_bytes(content)
    for read in (
        lambda: data.read_image(tmp_path / name),
        lambda: list(data.folder(tmp_path, image_shape=(8, 8, 3)).batches()),
    ):
        with pytest.raises(joi.InputError, match=hint) as caught:
            read()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_mistakes(tmp_path, model):
    path = saved(tmp_path, Image.fromarray(RGB))
    for function, hint in [
        (lambda: data.read_image(tmp_path / "none.png"), "No such file"),
        (lambda: data.read_image(tmp_path), "directory"),
        (lambda: data.read_image(path, (4, 4, 3), fit="centr"), "nearest: center"),
        (lambda: data.read_image(path, (4, 4)), "height, width"),
        (lambda: data.read_image(path, (4, 4, 4)), "1 or 3"),
        (lambda: data.files([]), "no image files"),
        (lambda: data.files([tmp_path / "none.png"], model), "none.png"),
        (lambda: data.files([path]), "model or an image_shape"),
        (lambda: data.folder(tmp_path / "none", model), "no folder"),
        (lambda: next(data.files([path], model).batches(0)), "at least 1"),
        (lambda: data.files([path], model).select([1]), "0 to 0"),
        (lambda: data.load("./none", model), "no folder or file"),
    ]:
        with pytest.raises(joi.InputError, match=hint):
            function()


def write(path, value=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_png(path, np.full((4, 4, 3), value))


def test_class_folders_by_wordnet_id_label_synonym_and_index(tmp_path, model):
    for folder, inside in [("n02", "images/b.png"), ("Ice_bear", "a.PNG"), ("0", "x.png"), ("ant", "y.png")]:
        write(tmp_path / folder / inside)
    (tmp_path / "ant" / "boxes.txt").write_text("not an image, and not named like one")
    (tmp_path / ".hidden").mkdir()
    with pytest.warns(joi.InputWarning, match=r"1 file \(boxes.txt\) in .* passed over"):
        dataset = data.folder(tmp_path, model)
    assert len(dataset) == 4
    assert dataset.classes == ("0", "Ice_bear", "ant", "n02")
    (batch,) = dataset.batches()
    assert batch.labels.tolist() == [0, 1, 0, 1]
    assert batch.labels.dtype == np.int32
    assert [name.split("/")[-1] for name in batch.names] == ["x.png", "a.PNG", "y.png", "b.png"]


def test_folder_without_classes(tmp_path, model):
    for k in range(5):
        write(tmp_path / f"{k}.png", k / 4)
    dataset = data.load(str(tmp_path), model).select([4, 0])
    (batch,) = dataset.batches()
    assert batch.labels.tolist() == [-1, -1]
    assert batch.images.mean((1, 2, 3)).tolist() == [1, 0]
    (batch,) = data.load(str(tmp_path / "2.png"), model).batches()
    assert batch.names == (str(tmp_path / "2.png"),)


def test_folders_that_are_refused(tmp_path, model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("")
    write(tmp_path / "unknown" / "zebra" / "1.png")
    write(tmp_path / "mixed" / "ant" / "1.png")
    write(tmp_path / "mixed" / "2.png")
    write(tmp_path / "hollow" / "ant" / "1.png")
    (tmp_path / "hollow" / "n02").mkdir()
    for name, hint in [
        ("empty", "holds no images"),
        ("notes", "holds no images"),
        ("unknown", "class folder .*zebra is no class of toy"),
        ("mixed", "beside its class folders, such as 2.png"),
        ("hollow", "class folder .*n02 holds no images"),
    ]:
        with pytest.raises(joi.InputError, match=hint) as caught:
            data.folder(tmp_path / name, model)
        assert "\n" not in str(caught.value)


def test_class_folders_of_numbers_are_labels(tmp_path):
    """Folders in text order are 0, 1, 10, 11, 2, …; so are the labels of a network trained on them."""
    labels = tuple(sorted(map(str, range(12))))
    model = joi.from_function(
        lambda params, x, taps: {"logits": x.mean((1, 2)) @ params},
        jnp.ones((3, 12)), image_shape=(4, 4, 3), taps=("logits",), labels=labels,
    )  # fmt: skip
    for name in labels:
        write(tmp_path / name / "a.png")
    with pytest.warns(joi.InputWarning, match="class 10 is the label of index 2.*; likewise 9 more") as said:
        dataset = data.folder(tmp_path, model)
    assert len(said) == 1
    (batch,) = dataset.batches()
    assert batch.labels.tolist() == list(range(12))


def test_a_folder_that_cannot_be_walked_to_its_end(tmp_path, model, monkeypatch):
    write(tmp_path / "ant" / "1.png")
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant")
    with pytest.raises(joi.InputError, match="link to one that holds it"):
        data.folder(tmp_path, model)
    (tmp_path / "ant" / "again").unlink()
    (tmp_path / "ant" / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(joi.InputError, match=r"cannot read the folder .*closed: Permission denied"):
        data.folder(tmp_path, model)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".jfif", "JPEG"), (".jp2", "JPEG2000"), (".JPC", "JPEG2000"), (".dib", "BMP")]
)
def test_suffixes_of_images(tmp_path, suffix, kind):
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", kind)
    (tmp_path / "no-suffix").write_bytes(b"")
    with pytest.warns(joi.InputWarning, match="no-suffix"):
        assert len(data.folder(tmp_path, image_shape=(4, 4, 3))) == 1


def test_damaged_images_are_named_and_left_out(tmp_path, model):
    for name in "abc":
        write(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-30])
    with pytest.warns(joi.InputWarning, match=r"1 damaged image \(.*b\.png is a damaged.* skipped"):
        dataset = data.load(str(tmp_path), model, skip_damaged=True)
    (batch,) = dataset.batches()
    assert [name[-5:] for name in batch.names] == ["a.png", "c.png"]
    for name in "ac":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(joi.InputError, match=r"no image of .* can be read: .*a\.png"):
        data.load(str(tmp_path), model, skip_damaged=True)


def test_a_name_that_is_not_utf8_is_escaped(tmp_path, model):
    write(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (batch,) = data.folder(tmp_path, model).batches()
    assert batch.names == (f"{tmp_path}/caf\\xe9.png",)


def test_batches_do_not_depend_on_threads_or_size(tmp_path):
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (70, 5, 5, 3), np.uint8)
    for k, image in enumerate(images):
        data.save_png(tmp_path / f"{k:03}.png", image)
    dataset = data.folder(tmp_path, image_shape=(5, 5, 3))
    for size, workers in [(64, 1), (64, 4), (33, 2), (1, 3), (1000, None)]:
        batches = list(dataset.batches(size, workers=workers))
        assert [len(b.images) for b in batches[:-1]] == [size] * (len(batches) - 1)
        np.testing.assert_array_equal(bytes_of(np.concatenate([b.images for b in batches])), images)


def test_reading_stays_three_batches_ahead(tmp_path):
    write(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    seen = []

    class Endless:
        def __len__(self):
            return 10**9

        def read(self, indices):
            seen.extend(indices)
            return [data.sets.Encoded(content, 0, "a") for _ in indices]

    batches = data.sets.dataset_of(Endless(), "endless", (), None, (4, 4, 3), "center").batches(8)
    next(batches)
    next(batches)
    batches.close()
    assert max(seen) < 8 * 4


PREPARE = """
    import io, sys
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    def png(k):
        file = io.BytesIO()
        Image.fromarray(np.full((6 + k, 8, 3), 30 * k, np.uint8)).save(file, "PNG")
        file.seek(0)
        return file

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["ant", "polar_bear"])
            image = tfds.features.Image(shape=(None, None, 3))
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"id": np.int64, "image": image, "label": label})
            )

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples(7), "test": self._generate_examples(2)}

        def _generate_examples(self, n):
            for k in range(n):
                yield k, {"id": k, "image": png(k), "label": k % 2}

    class Words(Tiny):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"id": np.int64}))

        def _generate_examples(self, n):
            for k in range(n):
                yield k, {"id": k}

    Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
    Words(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Small sets that tensorflow-datasets itself prepared, in a process of its own: it registers what it builds."""
    folder = tmp_path_factory.mktemp("tfds")
    script = folder / "code" / "prepare.py"
    script.parent.mkdir()
    script.write_text(textwrap.dedent(PREPARE))
    subprocess.run([sys.executable, str(script), str(folder / "sets")], check=True, capture_output=True)
    return folder / "sets"


def test_prepared_set(prepared, model):
    dataset = data.named("tiny", "train", model, data_dir=prepared)
    assert len(dataset) == 7
    assert dataset.classes == ("ant", "polar_bear")
    (batch,) = dataset.batches()
    order = np.rint(batch.images.mean((1, 2, 3)) * 255).astype(int) // 30
    assert sorted(order) == list(range(7))
    assert batch.labels.tolist() == [k % 2 for k in order]
    assert batch.names[3] == "tiny:train[3]"
    assert [len(b.images) for b in data.named("tiny", "train[:3]", model, data_dir=prepared).batches(2)] == [2, 1]
    assert "tensorflow" not in sys.modules


def test_prepared_set_of_a_name_with_code(prepared, tmp_path, monkeypatch):
    """The set is known to tensorflow-datasets by code; its folder says that it is array_record."""
    target = tmp_path / "cifar10" / "3.0.2"
    shutil.copytree(prepared / "tiny" / "1.0.0", target)
    for file in list(target.iterdir()):
        if file.name.startswith("tiny-"):
            file.rename(target / file.name.replace("tiny-", "cifar10-"))
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"name": "cifar10", "version": "3.0.2"}
    (target / "dataset_info.json").write_text(json.dumps(info))
    (target / "label.labels.txt").write_text("ant\npolar bear\n")
    dataset = data.named("cifar10", "test", image_shape=(4, 4, 3), data_dir=tmp_path)
    assert len(dataset) == 2
    assert sorted(label for batch in dataset.batches() for label in batch.labels) == [0, 1]


def test_mistakes_with_prepared_sets(prepared, tmp_path, model):
    toy = dataclasses.replace(model, info=dataclasses.replace(model.info, labels=("ant", "bee")))
    for function, hint in [
        (lambda: data.named("cifr10", "test", model, data_dir=prepared), "nearest: cifar10"),
        (lambda: data.named("mnist", "test", model, data_dir=prepared), "not prepared in .*tfds build mnist"),
        (lambda: data.named("tiny", None, model, data_dir=prepared), "splits t.*: name one"),
        (lambda: data.named("tiny", "validation", model, data_dir=prepared), "'validation' of tiny"),
        (lambda: data.named("tiny", "train", toy, data_dir=prepared), "class polar_bear of tiny is no class of toy"),
        (lambda: data.named("words", "train", model, data_dir=prepared), "no images"),
        (lambda: data.load("no_such_set:test", model), "unknown tensorflow-datasets set"),
    ]:
        with pytest.raises(joi.InputError, match=hint) as caught:
            function()
        assert "\n" not in str(caught.value)


def test_set_prepared_in_another_format(prepared, tmp_path, model):
    target = tmp_path / "tiny" / "1.0.0"
    shutil.copytree(prepared / "tiny" / "1.0.0", target)
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for file in list(target.glob("*array_record*")):
        file.rename(target / file.name.replace("array_record", "tfrecord"))
    with pytest.raises(joi.InputError, match=r"prepared as tfrecord.*--file_format=array_record"):
        data.named("tiny", "train", model, data_dir=tmp_path)
