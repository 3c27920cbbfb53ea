"""Image folders: each image as a person sees it, or refused with the name of the file and the reason."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgefd.config.load import parse_config, with_paths
from edgefd.core.errors import UserError
from edgefd.data.datasets import Source, load_dataset
from edgefd.data.images import read_images

GREY = np.add.outer(np.arange(6) * 30, np.arange(8) * 10).astype(np.uint8)
"""a grey picture, 6 high and 8 wide, that looks different in each orientation"""
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], 2)
SHAPE, COLOUR_SHAPE = (1, 6, 8), (3, 6, 8)


def place(folder: Path, name: str = "a.png", label: str = "0") -> Path:
    """Return the path of a file in the folder of a label, which exists then."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    return folder / label / name


def grey_of(image: Image.Image, folder: Path, name: str = "a.png", **options: object) -> np.ndarray:
    """Save an image, and read it as grey pixels [6, 8]."""
    image.save(place(folder, name), **options)
    x, y = read_images(folder, SHAPE)
    assert (x.dtype, x.shape, y.tolist()) == (np.uint8, (1, *SHAPE), [0])
    return x[0, 0]


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "a.bmp", "a.TIF", "a.webp", "a.pgm", "a.gif", "without_suffix"])
def test_grey_images_of_all_formats_are_read_by_their_content(tmp_path: Path, name: str) -> None:
    form = {"a.webp": "WEBP", "without_suffix": "PNG"}.get(name)
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(grey_of(Image.fromarray(GREY), tmp_path, name, format=form, **options), GREY)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_pixels_have_the_same_brightness_in_8_bits(tmp_path: Path, form: str) -> None:
    wide = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(grey_of(Image.fromarray(wide), tmp_path, "a.png", format=form), GREY)
    wide[0, 0], wide[0, 1] = 65535, 128  # the second is half a step of 8 bits above black, to the last bit
    assert grey_of(Image.fromarray(wide), tmp_path, "a.png", format=form)[0, :2].tolist() == [255, 0]


def test_big_endian_16_bit_pixels_are_read(tmp_path: Path) -> None:
    wide = (GREY.astype(np.uint16) * 257).astype(">u2")
    image = Image.frombytes("I;16B", (8, 6), wide.tobytes())
    np.testing.assert_array_equal(grey_of(image, tmp_path, "a.tif"), GREY)


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_of_which_zero_is_white_are_read_as_they_look(tmp_path: Path, bits: int) -> None:
    stored = Image.fromarray(GREY if bits == 8 else 65535 - GREY.astype(np.uint16) * 257)  # Pillow turns 8 bits itself
    np.testing.assert_array_equal(grey_of(stored, tmp_path, "a.tif", tiffinfo={262: 0}), GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_the_orientation_in_exif_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # transpositions of Pillow that make the stored picture
    picture = Image.fromarray(GREY)
    stored = picture if undo is None else picture.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.jpg": {"quality": 100}, "a.webp": {"lossless": True}, "a.tif": {"tiffinfo": {0x0112: orientation}}}
    read = grey_of(stored, tmp_path, name, exif=exif, **options.get(name, {}))
    assert np.abs(read.astype(int) - GREY).max() <= 3


def test_black_and_white_and_palettes_are_read_as_they_look(tmp_path: Path) -> None:
    white = GREY > 100
    np.testing.assert_array_equal(grey_of(Image.fromarray(white), tmp_path), white * np.uint8(255))
    palette = Image.fromarray(GREY).convert("P")
    palette.putpalette([255 - i // 3 for i in range(768)])  # index i is the grey level 255 - i
    np.testing.assert_array_equal(grey_of(palette, tmp_path), 255 - GREY)


def test_colour_and_grey_images_fit_a_federation_of_colour_images(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(place(tmp_path, "a.png"))
    Image.fromarray(GREY).save(place(tmp_path, "b.png"))
    Image.fromarray(GREY.astype(np.uint16) * 257).save(place(tmp_path, "c.png"))
    Image.fromarray(COLOUR).convert("CMYK").save(place(tmp_path, "d.tif"))
    Image.fromarray(COLOUR).quantize(256).save(place(tmp_path, "e.png"))
    Image.fromarray(COLOUR).convert("RGBA").save(place(tmp_path, "f.png"))  # opaque everywhere
    x, _ = read_images(tmp_path, COLOUR_SHAPE)
    for i in (0, 3, 4, 5):
        assert np.abs(x[i].transpose(1, 2, 0).astype(int) - COLOUR).max() <= (8 if i == 4 else 1)
    for i in (1, 2):
        np.testing.assert_array_equal(x[i], np.stack([GREY] * 3))


def test_an_interlaced_image_and_grey_pixels_saved_as_colour_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(grey_of(Image.fromarray(np.stack([GREY] * 3, 2)), tmp_path), GREY)
    np.testing.assert_array_equal(grey_of(Image.fromarray(GREY), tmp_path / "b", "a.gif", interlace=1), GREY)


def test_a_transparent_level_of_16_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(place(tmp_path), transparency=0)
    with pytest.raises(UserError, match="has transparent pixels"):
        read_images(tmp_path, SHAPE)


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(COLOUR).convert("RGBA")
    image.putpixel((2, 3), (9, 9, 9, 254))
    return image.convert(mode)


def keyed() -> Image.Image:
    image = Image.fromarray(GREY)
    image.info["transparency"] = 0  # of a PNG without an alpha channel: one level is transparent
    return image


@pytest.mark.parametrize(
    ("image", "shape", "reason"),
    [
        (Image.fromarray(COLOUR), SHAPE, "is in colour, but the images of the federation are grey"),
        (transparent("RGBA"), COLOUR_SHAPE, "has transparent pixels"),
        (transparent("LA"), SHAPE, "has transparent pixels"),
        (keyed(), SHAPE, "has transparent pixels"),
        (Image.fromarray(GREY).resize((9, 6)), SHAPE, r"is 9 x 6 pixels, but .* are 8 x 6 \(width x height\)"),
        (Image.fromarray(GREY.T), SHAPE, "is 6 x 8 pixels"),
    ],
)
def test_an_image_that_is_not_what_it_would_be_read_as_is_refused(
    tmp_path: Path, image: Image.Image, shape: tuple[int, ...], reason: str
) -> None:
    image.save(place(tmp_path), **({"transparency": 0} if "transparency" in image.info else {}))
    with pytest.raises(UserError, match=rf"0/a\.png {reason}"):
        read_images(tmp_path, shape)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_frames_or_pages_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(place(tmp_path, name), save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="has several frames or pages"):
        read_images(tmp_path, SHAPE if name != "a.webp" else COLOUR_SHAPE)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(GREY).convert(mode).save(place(tmp_path, "a.tif"))
    with pytest.raises(UserError, match="has 32-bit pixels, which have no fixed white"):
        read_images(tmp_path, SHAPE)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = place(tmp_path, name)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=rf"0/{name} (is damaged|is not an image)") as error:
        read_images(tmp_path, (1, 64, 64))
    assert "\n" not in str(error.value)


def test_damaged_files_never_end_in_another_error(tmp_path: Path) -> None:
    out, rng = io.BytesIO(), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        out.seek(0)
        out.truncate()
        Image.fromarray(GREY.T.copy()).save(out, form, **({"exif": exif} if form in ("PNG", "JPEG", "WEBP") else {}))
        for _ in range(150):
            data = bytearray(out.getvalue())
            for i in rng.integers(0, len(data), 3):
                data[i] = rng.integers(0, 256)
            place(tmp_path).write_bytes(data)
            with contextlib.suppress(UserError):
                assert read_images(tmp_path, SHAPE)[0].shape == (1, *SHAPE)


def test_a_small_file_that_claims_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (13_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        place(tmp_path).write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(UserError, match=r"is 13000 x 13000 pixels|is damaged or cannot be read: .*bomb"):
            read_images(tmp_path, SHAPE)


def test_hidden_files_and_what_systems_leave_behind_are_passed_over(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(place(tmp_path, "a.png", "3"))
    for name in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "Desktop.ini", "ehthumbs.db", "Icon\r"):
        place(tmp_path, name, "3").write_bytes(b"not an image")
        (tmp_path / name).write_bytes(b"not an image")
    for folder in ("__MACOSX/3", ".git/3", "3/.thumbnails", "@eaDir/3"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(b"not an image")
    x, y = read_images(tmp_path, SHAPE)
    assert (len(x), y.tolist()) == (1, [3])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("0/notes.txt", "notes.txt is not an image that can be read"),
        ("0/empty.png", "empty.png is not an image"),
        ("0/picture.svg", "picture.svg is not an image"),
        ("readme.txt", "readme.txt is not a folder named after a label"),
        ("cat/a.png", "cat is not a folder named after a label"),
        ("99999999999999999999/a.png", "99999999999999999999 is not a folder named after a label"),
        ("-1/a.png", "-1 is not a folder named after a label"),
        ("²/a.png", "² is not a folder named after a label"),
        ("0/more/a.png", "more is not a file"),
    ],
)
def test_anything_else_is_refused_and_not_left_out(tmp_path: Path, name: str, reason: str) -> None:
    Image.fromarray(GREY).save(place(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"<svg/>" if name.endswith("svg") else b"" if "empty" in name else b"text")
    with pytest.raises(UserError, match=reason):
        read_images(tmp_path, SHAPE)


def test_a_name_that_holds_control_characters_is_shown_escaped(tmp_path: Path) -> None:
    place(tmp_path, "a\n\x1b[31m.png").write_bytes(b"text")
    with pytest.raises(UserError) as error:
        read_images(tmp_path, SHAPE)
    assert r"a\n\x1b[31m.png is not an image" in str(error.value)
    assert str(error.value).isprintable()


def test_links_are_followed_but_links_to_nothing_and_pipes_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(place(tmp_path / "elsewhere"))
    folder = tmp_path / "data"
    place(folder, "a.png").symlink_to(tmp_path / "elsewhere" / "0" / "a.png")
    (folder / "1").symlink_to(tmp_path / "elsewhere" / "0")
    x, y = read_images(folder, SHAPE)
    assert y.tolist() == [0, 1]
    np.testing.assert_array_equal(x[0], x[1])
    place(folder, "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match="is a link to nothing"):
        read_images(folder, SHAPE)
    place(folder, "b.png").unlink()
    os.mkfifo(place(folder, "b.png"))  # reading it would wait for ever
    with pytest.raises(UserError, match="is not a file"):
        read_images(folder, SHAPE)


def test_samples_that_are_no_images_need_another_source(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(place(tmp_path))
    for shape in ((6, 100), (64,), (4, 6, 8)):
        with pytest.raises(UserError, match="images have 1 or 3 channels"):
            read_images(tmp_path, shape)


@pytest.mark.parametrize("coloured", [False, True])
def test_a_simulation_reads_folders_of_images_as_devices_do(tmp_path: Path, coloured: bool) -> None:
    for part, n in (("train", 4), ("test", 2)):
        for i in range(n):
            Image.fromarray(GREY + np.uint8(i)).save(place(tmp_path / part, f"{i}.png", str(i % 2)))
    if coloured:
        Image.fromarray(COLOUR).save(place(tmp_path / "train", "9.png", "1"))
    d = load_dataset(str(tmp_path))
    assert d.x_train.shape == ((5, 3, 6, 8) if coloured else (4, 1, 6, 8))
    x, y = read_images(tmp_path / "train", d.x_train.shape[1:])
    np.testing.assert_array_equal(d.x_train, x)
    assert d.y_train.tolist() == y.tolist()
    assert load_dataset(str(tmp_path) + "/").name == d.name == tmp_path.name
    (tmp_path / "test").rename(tmp_path / "valid")
    with pytest.raises(UserError, match="holds a folder train, but no folder test"):
        load_dataset(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        load_dataset(str(tmp_path / "gone"))
    test = load_dataset(Source(str(tmp_path), test=str(tmp_path / "valid")))
    np.testing.assert_array_equal(test.x_test, d.x_test)


def test_a_folder_of_images_is_a_path_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mnist").mkdir()  # a name in DATASETS is never a path
    for name, path in (("~/pictures", tmp_path / "pictures"), ("pictures", "pictures"), ("mnist", "mnist")):
        config = parse_config({"data": {"name": name}})
        assert config.data.name == str(path)
        elsewhere = with_paths(config, os.path.abspath)  # as the processes of Ray get it
        assert elsewhere.data.name == ("mnist" if name == "mnist" else str(tmp_path / "pictures"))
