"""One decoded frame -> the picture that a viewer sees: RGB, square pixels, the right way up.

The matrix and the range are the frame's own; where it names no matrix it is BT.601, which is
swscale's rule whatever the size. Wide gamuts and HDR curves are not mapped: the numbers stay as
they are. Fields are not separated.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from media.clips.clip_codecs import MAX_PIXELS
from media.errors import MediaTooLarge, UnsupportedMedia

#: The same result on every processor; that costs ten times the fastest conversion.
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
PLAIN, STRETCHING = Interpolation.BILINEAR, Interpolation.BICUBIC
#: AVColorSpace: RGB, BT.709, unspecified, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
UNSPECIFIED, RESERVED = 2, 3
ONE_DEGREE = math.tan(math.radians(1))


class Painter:
    """Turns the frames of one clip into pictures."""

    def __init__(self, pixel_aspect: Fraction) -> None:
        self._pixel_aspect = pixel_aspect
        self._reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame) -> np.ndarray:
        """uint8 ``[height, width, 3]``, or 4 where the frame has an alpha channel.

        Raises:
            UnsupportedMedia: colours or a display matrix that are not read.
            MediaTooLarge: more pixels than a frame may have; sizes may change inside a clip.
        """
        stored, square = (frame.width, frame.height), self.square(frame.width, frame.height)
        alpha = any(component.is_alpha for component in frame.format.components)
        if frame.colorspace == RESERVED:
            frame.colorspace = UNSPECIFIED
        if frame.colorspace not in MATRICES:
            raise UnsupportedMedia(f"video of colour matrix {frame.colorspace} is not read")
        painted = self._reformatter.reformat(
            frame,
            *(stored if alpha else square),
            format="rgba" if alpha else "rgb24",
            interpolation=EXACT | (PLAIN if alpha or stored == square else STRETCHING),
            threads=1,
        ).to_ndarray()  # [h, w, C]
        if alpha and stored != square:
            painted = _stretched(painted, square)
        return _upright(painted, _display_matrix(frame))

    def square(self, width: int, height: int) -> tuple[int, int]:
        """Width and height with square pixels: the side that is too short is stretched."""
        aspect = self._pixel_aspect
        stretched = (
            (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        )
        if max(width * height, stretched[0] * stretched[1]) > MAX_PIXELS:
            raise MediaTooLarge(
                f"frames may have at most {MAX_PIXELS} pixels; "
                f"this one is {stretched[0]}x{stretched[1]}"
            )
        return stretched


def is_turned(frame: VideoFrame) -> bool:
    """Whether the sides of a stored frame change places when it is shown."""
    a, b, c, d = _display_matrix(frame)
    return _beside(a, b) and _beside(d, c)


def _stretched(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, 4] -> [height, width, 4]; colours that hide under clear pixels do not spread."""
    shares = Image.fromarray(picture).convert("RGBa")  # colour times alpha
    return np.asarray(shares.resize(size, Image.Resampling.BICUBIC).convert("RGBA"))


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of x' = ax + cy, y' = bx + dy: how the stored picture is turned to be shown."""
    for data in cast(SideDataContainer, frame.side_data):
        if data.type == Type.DISPLAYMATRIX:
            matrix = np.frombuffer(bytes(data), np.int32)  # a, b, u, c, d, v, x, y, w
            a, b, c, d = matrix[[0, 1, 3, 4]].tolist()
            return a, b, c, d
    return 1, 0, 0, 1


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Quarter turns and mirrors, as the display matrix says; [h, w, C] may become [w, h, C].

    A matrix that was never filled in turns nothing, and one is rounded: a degree beside a quarter
    is a quarter, as FFmpeg's own programs have it.
    """
    a, b, c, d = matrix
    if not any(matrix):
        return picture
    if _beside(b, a) and _beside(c, d):
        across, down = a, d
    elif _beside(a, b) and _beside(d, c):
        picture = picture.transpose(1, 0, 2)  # [w, h, C]
        across, down = c, b
    else:
        raise UnsupportedMedia("expected video turned by quarters; this one is turned otherwise")
    picture = picture[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1]
    return np.ascontiguousarray(picture)


def _beside(small: int, large: int) -> bool:
    """Whether a number of a display matrix is the rounding of zero beside the other."""
    return large != 0 and abs(small) <= ONE_DEGREE * abs(large)
