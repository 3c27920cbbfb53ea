"""Reader of images, for devices and simulations. Each image is read as a person sees it, or refused.

Pillow decodes the images (extra `images`).
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError, require
from edgefd.core.files import os_errors
from edgefd.core.text import shown
from edgefd.data.image_arrays import is_image, model_layout
from edgefd.data.labels import shown_names

if TYPE_CHECKING:
    from PIL import Image as Images

MOST_PIXELS = 2**27
"""largest number of pixels of an image: a small file can claim to have many"""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""formats that are read, by content; others would start other programs, or are no pictures"""
Result = TypeVar("Result")
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin", "@eadir", "lost+found")
"""files and folders that systems leave behind; they are passed over, like all names that begin with a dot"""
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_TRANSPARENT = "has transparent pixels: save it on the background of the federation's images"
_PHOTOMETRIC = 262  # tag of a TIFF; 0 = zero is white
_COLOUR = 8  # grey pixels of a lossy colour image differ by no more than this between the channels


@dataclass(frozen=True)
class Encoded:
    """An image in memory, in the format of a file."""

    name: str
    """what the image is, for errors"""
    data: bytes

    def open(self, mode: str) -> io.BytesIO:
        """Return the bytes as an open file."""
        return io.BytesIO(self.data)

    def __str__(self) -> str:
        return self.name


Picture = Path | Encoded


def read_images(
    folder: Path,
    shape: tuple[int, ...] | None = None,
    names: Sequence[str] | None = None,
    choose: Callable[[list[tuple[Path, str]]], list[tuple[Path, str]]] = list,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Read the images in the subfolders of a folder, whose names are labels.

    Args:
        folder: the folder. Hidden files and `LITTER` in it are passed over; any other file is an error.
        shape: [channels, height, width] of every image; None = that of the first one, in colour if any image is.
        names: labels that there are besides 0, 1, ...; None = no others.
        choose: returns the images to read, and their order, from the paths and the labels of all.

    Returns:
        uint8 [n, channels, height, width], in the order of `choose`, by default that of the paths, and labels [n]:
        text, or int64 without `names`.

    Raises:
        UserError: if the folder has another form, or an image cannot be used, see `decode_images`.
    """
    require("images", "PIL")
    if shape is not None:
        _check_shape(folder, shape)
    files = choose(list(labelled_files(folder, names or ())))
    if not files:
        raise UserError(f"{folder} must hold folders 0, 1, ... of images")
    labels = np.array([label for _, label in files])
    pictures = [file for file, _ in files]
    return decode_images(pictures, shape), labels if names else labels.astype(np.int64)


def read_unlabelled_images(
    folder: Path,
    shape: tuple[int, ...],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> tuple[npt.NDArray[np.uint8], list[Path]]:
    """Read the images in a folder and in its subfolders, whatever their names are.

    Args:
        folder: the folder.
        shape: [channels, height, width] of the images.
        size: as in `decode_images`.
        channels: as in `decode_images`.

    Returns:
        uint8 [n, channels, height, width], and the paths of the images, in their order.

    Raises:
        UserError: as `decode_images`, and if there is no image.
    """
    _check_shape(folder, shape)
    entries = _visible(folder)
    files = [file for entry in entries for file in (_visible(entry) if entry.is_dir() else [entry])]
    if not files:
        raise UserError(f"{folder} holds no images")
    return decode_images(files, shape if size is None else None, size, channels), files


def _check_shape(folder: Path, shape: tuple[int, ...]) -> None:
    """Check that the samples of a federation are images."""
    if not is_image(shape):
        raise UserError(
            f"{folder}: images have 1 or 3 channels, but the samples are of shape {list(shape)}: use an npz"
        )


def decode_images(
    pictures: Sequence[Picture],
    shape: tuple[int, ...] | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode images, uint8 [n, channels, height, width].

    16-bit pixels become 8-bit pixels of the same brightness, the orientation in EXIF is applied, and palettes, CMYK and
    black and white are converted. Grey images fit images in colour.

    Args:
        pictures: at least one.
        shape: [channels, height, width] of every image; None = that of the first one, in colour if any image is.
        size: height and width to which every image is resized; None = all have the size in `shape`, or are refused.
        channels: 1 = colours become grey, 3 = grey becomes colour; None = colours are refused where grey is expected.

    Raises:
        UserError: if an image is damaged, has another size, several frames, transparent pixels, 32-bit pixels, or
            colours where grey is expected.
    """
    require("images", "PIL")
    depth, height, width = _common_shape(pictures) if shape is None else shape
    if size is not None:
        height, width = size
    x = np.empty((len(pictures), channels or depth, height, width), np.uint8)
    for i, picture in enumerate(pictures):
        pixels = _decode(picture, 3 if channels else depth, None if size is not None else (width, height))
        x[i] = model_layout(pixels[None], False, size, channels or depth)[0]
    return x


def labelled_files(folder: Path, names: Collection[str] | None = ()) -> Iterator[tuple[Path, str]]:
    """Yield the image files and their labels, in the order of their paths.

    `names` are labels that there are besides 0, 1, ...; None = any name of a folder is a label.
    """
    for entry in _visible(folder):
        number = entry.name.isascii() and entry.name.isdigit() and len(entry.name) < 10
        if not (entry.is_dir() and (number or names is None or entry.name in names)):
            others = f", or one of {shown_names(tuple(names))}" if names else ""
            labels = "an image folder" if names is None else f"a folder named after a label, 0, 1, ...{others}"
            raise UserError(f"{entry} is not {labels}: move it elsewhere")
        for file in _visible(entry):
            if not file.is_file():
                reason = "a link to nothing" if file.is_symlink() and not file.exists() else "not a file"
                raise UserError(f"{file} is {reason}: folders of labels must hold images only")
            yield file, entry.name


def _visible(folder: Path) -> list[Path]:
    with os_errors(f"read {folder}"):
        names = sorted(os.listdir(folder))
    return [folder / name for name in names if not name.startswith(".") and name.casefold() not in LITTER]


def _common_shape(files: Sequence[Picture]) -> tuple[int, int, int]:
    """Return the shape of the first image; three channels if any image is in colour."""
    width, height = _open(files[0], lambda image: _upright(image).size)
    coloured = any(_open(file, lambda image: image.mode not in ("1", "L", "LA", "I", *_GREY_16)) for file in files)
    return (3 if coloured else 1), height, width


def _decode(file: Picture, channels: int, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image, uint8 [channels, height, width] or [1, height, width] for grey ones.

    `size` is its width and height (None = any).
    """

    def pixels(image: Images.Image) -> npt.NDArray[np.uint8]:
        # compared before anything is decoded: a small file can claim to have many pixels
        if size is not None and sorted(image.size) != sorted(size):
            raise UserError(_other_size(file, image.size, size))
        if math.prod(image.size) > MOST_PIXELS:
            raise UserError(f"{file} has {math.prod(image.size)} pixels, more than {MOST_PIXELS}: make it smaller")
        if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras add a preview to photographs: MPO
            raise UserError(f"{file} has several frames or pages: save the one to use as an image of its own")
        white_is_0 = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        upright = _upright(image)
        if size is not None and upright.size != size:
            raise UserError(_other_size(file, upright.size, size))
        if upright.mode in _GREY_16 or (upright.mode == "I" and image.format in ("PNG", "PPM")):  # these have 16 bits
            if upright.has_transparency_data:
                raise UserError(f"{file} {_TRANSPARENT}")
            grey = (np.asarray(upright).astype(np.int64) + 128) // 257  # 65535 becomes 255
            return (255 - grey if white_is_0 else grey).astype(np.uint8)[None]  # Pillow turns 8 bits only
        return _eight_bits(file, upright, channels)

    return _open(file, pixels)


def _other_size(file: Picture, size: tuple[int, int], expected: tuple[int, int]) -> str:
    return (
        f"{file} is {size[0]} x {size[1]} pixels, but the images of the federation are {expected[0]} x {expected[1]} "
        "(width x height): resize it, or set data.image_size in the config of a simulation"
    )


def _open(file: Picture, read: Callable[[Images.Image], Result]) -> Result:
    """Return `read` of the opened image.

    Raises:
        UserError: if the file is not an image, or is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images, whose size is compared before they are decoded
            # not by its path: Pillow 13 maps the file then, and reads turned TIFF images wrongly
            with file.open("rb") as data, Image.open(data, formats=FORMATS) as image:
                return read(image)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        if isinstance(error, UnidentifiedImageError):
            raise UserError(
                f"{file} is not an image that can be read ({', '.join(FORMATS)}): remove or convert it"
            ) from error
        raise UserError(f"{file} is damaged or cannot be read: {shown(error)}") from error


def _upright(image: Images.Image) -> Images.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) or image


def _eight_bits(file: Picture, image: Images.Image, channels: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image of at most 8 bits as a person sees them."""
    if image.mode in ("I", "F"):
        raise UserError(f"{file} has 32-bit pixels, which have no fixed white: save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            raise UserError(f"{file} {_TRANSPARENT}")
        image = rgba.convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[None]
    rgb = image.convert("RGB")
    pixels = np.asarray(rgb)
    if channels == 3:
        return pixels.transpose(2, 0, 1)
    if (pixels.max(2).astype(int) - pixels.min(2)).max() > _COLOUR:
        raise UserError(
            f"{file} is in colour, but the images of the federation are grey: convert it to grey as they were"
        )
    return np.asarray(rgb.convert("L"))[None]
