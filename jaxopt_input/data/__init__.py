"""Images in and out of files, through Pillow, and sets of them: folders, files and tensorflow-datasets.

Images read are float32 in [0, 1]. They are turned upright by their EXIF orientation; what is transparent is composited
on white; grays of 16 bits keep their depth; CMYK is converted without color profiles; of an animation the first frame
is read. Two things vary, and have names: the size asked for, and how an image of another shape is brought to it:

    center    the largest central region of the shape asked for, scaled
    imagenet  as center, of 224/256 of that extent, as classifiers on ImageNet are evaluated
    stretch   the whole image, its proportions changed
    pad       the whole image, with gray (0.5) beside it
"""

from jaxopt_input.data.pictures import SUFFIXES, read_image, read_mask, save_png, to_pillow, to_uint8
from jaxopt_input.data.sets import Batch, Dataset, files, folder, load, named
from jaxopt_input.disk import atomic
from jaxopt_input.names import FITS

__all__ = [
    "FITS",
    "SUFFIXES",
    "Batch",
    "Dataset",
    "atomic",
    "files",
    "folder",
    "load",
    "named",
    "read_image",
    "read_mask",
    "save_png",
    "to_pillow",
    "to_uint8",
]
