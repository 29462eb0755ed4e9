"""Which moments of a clip are looked at. All times count from its first frame.

Times are exact fractions: a moment that falls on the very start of a frame must not fall to the
frame before it because a floating-point number was rounded.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

from media.errors import MediaTooLarge

MAX_FRAMES = 64  # of all views together
#: Strides are given as floats; what is finer than this is their rounding.
FINEST_SECONDS = 10**6  # parts of a second


def view_times(
    duration: Fraction, stride: float, frames: int, views: int, moment: float | None = None
) -> list[list[Fraction]]:
    """The moments of each view, ``frames`` of them, all within [0, duration].

    Args:
        duration: seconds.
        stride: seconds from one frame of a view to its next. 0 cuts the clip into ``frames``
            equal parts and looks at the middle of each; more views divide each part again and
            take turns. Otherwise a view is a window, and the windows lie in the middles of as
            many equal parts of the room that they have; one window lies in the middle of the
            clip. Where a clip is shorter than the window, the moments outside are moved to its
            first or its last moment.
        moment: of a single view, where in each part, or of a window in its room, it lies instead
            of the middle: 0 to 1.

    Raises:
        MediaTooLarge: more frames than a clip may give.
    """
    if frames * views > MAX_FRAMES:
        raise MediaTooLarge(
            f"a clip may be read at no more than {MAX_FRAMES} moments; "
            f"{views} times {frames} were asked for"
        )
    turns = [Fraction(2 * view + 1, 2 * views) for view in range(views)]
    if moment is not None:
        assert views == 1
        turns = [Fraction(moment).limit_denominator(FINEST_SECONDS)]
    if stride == 0:
        return [[(frame + turn) * duration / frames for frame in range(frames)] for turn in turns]
    step = Fraction(stride).limit_denominator(FINEST_SECONDS)
    room = duration - (frames - 1) * step  # negative where the clip is shorter than a window
    return [
        [min(max(room * turn + frame * step, Fraction(0)), duration) for frame in range(frames)]
        for turn in turns
    ]


def moments_within(duration: Fraction, stride: float, frames: int) -> int:
    """How many moments a clip has to give one view, of which none is the repetition of another.

    Args:
        duration: seconds.
        stride: as ``view_times`` has it.
        frames: of the clip.
    """
    step = Fraction(stride).limit_denominator(FINEST_SECONDS)
    return min(frames, duration // step + 1) if step else frames


def frame_at(time: Fraction, starts: list[int], tick: Fraction) -> int:
    """The index of the frame that is shown at ``time``: the last that has begun.

    Args:
        time: seconds from the first frame.
        starts: when each frame begins, rising, in ticks from any origin.
        tick: seconds.
    """
    return max(bisect_right(starts, starts[0] + time / tick) - 1, 0)
