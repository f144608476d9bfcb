"""Untrusted bytes to RGB pixels, or the reason why not.

An image is decoded once; the crops of all encoders are cut from those pixels (`miner.crops`). The
fast path (simplejpeg) hands over to the reference (Pillow) where it could not. With the crops' own
fast path it differs from the reference by at most 2 of 255 in every value.

Our way to RGB: alpha is composited on white, 16-bit samples keep their high byte, an animation
gives its first frame. EXIF rotation is recorded and never applied. ICC profiles are ignored, as by
the preprocessing that the encoders were trained with.

Shape suffixes: H height, W width, C = 3 channels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from miner.config import ImageLimits
from miner.errors import ImageError
from miner.formats import sniff
from miner.image_header import exif_orientation, open_header, pillow_warnings_ignored
from miner.schema import Reason

_PIXELS_MISSING = "premature end of data segment"
"""What the fast decoder says of a JPEG that goes on with another marker before it is complete."""

_BAND_PIXELS = 2**22
"""Pixels that are converted to RGB at once."""

_ENDS_EARLY = re.compile("truncat|premature|end of file|not enough|cannot load", re.IGNORECASE)
"""What decoders say when bytes run out; Pillow "cannot load" a header that nothing follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image's pixels and what its header said.

    Attributes:
        pixels_HWC: [H, W, 3] uint8 on the CPU, RGB.
        width: in pixels, as stored (EXIF rotation not applied).
        height: in pixels, as stored.
        format: by the bytes, a name in `miner.formats.READERS`.
        exif_orientation: 1 to 8, or None where there is no readable one.
    """

    pixels_HWC: torch.Tensor
    width: int
    height: int
    format: str
    exif_orientation: int | None


def decode(data: bytes, limits: ImageLimits, *, reference: bool = False) -> Decoded:
    """Decode one image of unknown origin. May be called from several threads.

    Size limits are checked against the header, before memory for pixels is asked for.

    Args:
        data: the whole file.
        limits: what the image may be.
        reference: decode by Pillow alone.

    Raises:
        ImageError: the image is refused; nothing else is raised, whatever the bytes are.
    """
    format = sniff(data)
    try:
        with pillow_warnings_ignored:
            header = open_header(data, limits, format=format)
            orientation = exif_orientation(header)
            pixels_HWC = None
            if format == "JPEG":
                pixels_HWC = _decode_jpeg(data, header)
            if pixels_HWC is None or reference:
                pixels_HWC = _pixels(_load(header, data))
    except ImageError:
        raise
    except Exception as error:
        reason = Reason.UNDECODABLE
        if isinstance(error, Image.DecompressionBombError):
            reason = Reason.TOO_MANY_PIXELS
        elif _ENDS_EARLY.search(str(error)):
            reason = Reason.TRUNCATED_IMAGE
        detail = f"{format} of {len(data)} bytes: {type(error).__name__}: {error}"
        raise ImageError(reason, detail[:300]) from error
    height, width = pixels_HWC.shape[:2]
    return Decoded(
        pixels_HWC=pixels_HWC,
        width=width,
        height=height,
        format=format,
        exif_orientation=orientation,
    )


def rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to RGB our way (top of this file). Its first frame is taken.

    Raises:
        ImageError: samples of 32 bits have no scale that we could know.
    """
    if image.tell() != 0:
        image.seek(0)
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(
            Reason.UNDECODABLE,
            f"samples are 32-bit {'integers' if image.mode == 'I' else 'floats'}, and no header "
            "says which value is white; convert the image to 8 or 16 bits",
        )
    if image.mode.startswith("I;16"):
        values_HW = np.asarray(image)
        gray_HW = (values_HW >> 8).astype(np.uint8)
        if "transparency" in image.info:
            gray_HW[values_HW == image.info["transparency"]] = 255
        return Image.fromarray(gray_HW).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast("Image.Image", ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> torch.Tensor:
    """[H, W, 3] pixels of a loaded image; no second picture of that size comes to be."""
    width, height = image.size
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    num_rows = max(_BAND_PIXELS // max(width, 1), 1)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        band = image if num_rows >= height else image.crop((0, top, width, bottom))
        pixels_HWC[top:bottom] = np.asarray(rgb(band))
    return torch.from_numpy(pixels_HWC)


def _decode_jpeg(data: bytes, header: Image.Image) -> torch.Tensor | None:
    """[H, W, 3] pixels, or None where Pillow has to judge: CMYK, or any complaint but one.

    Raises:
        ImageError: the file has an end but lacks pixels; Pillow would make them gray.
    """
    if header.mode not in ("L", "RGB"):
        return None
    # A buffer of the size that was checked: a second header in the file gets no more.
    buffer_HWC = np.empty((header.height, header.width, 3), np.uint8)
    try:
        decoded_HWC = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer_HWC)
    except ValueError as error:
        if _PIXELS_MISSING in str(error):
            detail = f"JPEG of {len(data)} bytes: {error}"
            raise ImageError(Reason.TRUNCATED_IMAGE, detail) from error
        return None
    return torch.from_numpy(buffer_HWC) if decoded_HWC.shape == buffer_HWC.shape else None


def _load(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Decode the first frame by Pillow, and undo what Pillow gets wrong."""
    if isinstance(image, WebPImageFile):
        return _first_frame(image)
    if isinstance(image, PngImageFile):
        _scale_transparency(image, depth=data[24])
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        bits, photometric = image.tag_v2.get(258), image.tag_v2.get(262)
        if bits != (16,) or photometric != 1:
            raise ValueError(f"gray of {bits} bits, photometric {photometric}, is not supported")
    orientation = exif_orientation(image)
    image.load()
    if orientation is None or exif_orientation(image) is not None:
        return image
    # Pillow turned the pixels and took the tag away (TIFF): turn them back.
    return image.transpose(_UNDO[orientation]) if orientation in _UNDO else image


def _first_frame(image: WebPImageFile) -> Image.Image:
    """What `image.load()` gives, with three canvases in memory instead of four."""
    frame, _, _ = image._get_next()
    del image._decoder
    return Image.frombuffer(image.rawmode, image.size, frame, "raw", image.rawmode, 0, 1)


_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Inverse of what each EXIF orientation asks for."""


def _scale_transparency(image: PngImageFile, depth: int) -> None:
    """Bring tRNS, which holds samples as stored, to the scale of the decoded samples."""
    if "transparency" not in image.info:
        return
    value = image.info["transparency"]
    if image.mode == "L" and depth in (2, 4):
        image.info["transparency"] = value * (255 // (2**depth - 1))
    if image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in value)
