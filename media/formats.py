"""Every type of file that the readers read: one table of names, endings and media types.

Plain data, so that whoever only lists files loads no decoder. The readers decide by a file's first
bytes and never by its name; endings say what is worth opening, media types what HTTP calls it. A
row's ``name`` is the reader's own: a test holds this table against theirs.
"""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """One type of file.

    Attributes:
        name: as the reader of its modality calls it.
        endings: of file names, in small letters.
        added: endings that were not listed by the first rule of reading (``media.sources.rules``).
        media_types: what a client may call it.
    """

    name: str
    modality: str
    endings: tuple[str, ...]
    added: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()


FORMATS = (
    Format("BMP", "image", (".bmp",), (".dib",), ("image/bmp",)),
    Format("GIF", "image", (".gif",), (), ("image/gif",)),
    Format(
        "JPEG", "image", (".jpeg", ".jpg"), (".jfi", ".jfif", ".jif", ".jpe", ".pjp", ".pjpeg"),
        ("image/jpeg",),
    ),
    Format("PNG", "image", (".png",), (".apng",), ("image/png",)),
    Format("TIFF", "image", (".tif", ".tiff"), (), ("image/tiff",)),
    Format("WEBP", "image", (".webp",), (), ("image/webp",)),
    Format("avi", "video", (".avi",), (".divx",), ("video/x-msvideo",)),
    Format("gif", "video", (".gif",), (), ("image/gif",)),
    Format("matroska", "video", (".mkv", ".webm"), (), ("video/x-matroska", "video/webm")),
    Format(
        "mov", "video", (".m4v", ".mov", ".mp4"), (".3g2", ".3gp", ".qt"),
        ("video/mp4", "video/quicktime"),
    ),
    Format("mpeg", "video", (".mpeg", ".mpg"), (".mpe", ".vob"), ("video/mpeg",)),
    Format("mpegts", "video", (".ts",), (".m2t", ".m2ts", ".mts"), ("video/mp2t",)),
    Format("DICOM", "volume", (".dcm",), (".dicom", ".ima"), ("application/dicom",)),
    Format("MetaImage", "volume", (".mha",)),
    Format("NIfTI", "volume", (".nii", ".nii.gz"), (), ("application/gzip",)),
    Format("npy", "volume", (".npy",)),
    Format("npz", "volume", (".npz",)),
    Format("NRRD", "volume", (".nrrd",)),
    Format("zip of DICOM", "volume", (".zip",), (), ("application/zip",)),
)  # fmt: skip
#: Media that no reader here reads: listed all the same, so that they are refused by name.
FOREIGN = (
    *(".avif", ".heic", ".heif", ".jp2", ".jxl"),
    *(".flv", ".ogv", ".wmv"),
    *(".hdr", ".img", ".mgz", ".mhd", ".mnc", ".nhdr"),
)
#: Of everything that is read, in the order of the table.
ENDINGS = tuple(dict.fromkeys(end for one in FORMATS for end in (*one.endings, *one.added)))
#: Those that the first rule of reading knew.
FIRST_ENDINGS = tuple(dict.fromkeys(end for one in FORMATS for end in one.endings))


def media_types(modality: str) -> tuple[str, ...]:
    """What clients may call the files of one modality."""
    return tuple(kind for one in FORMATS if one.modality == modality for kind in one.media_types)
