"""What a file is that Pillow does not read, by its first bytes, and what helps then.

....ftypheic    HEIC, of telephones      ....ftypisom, .E..  EBML    a video
%PDF            a document               <svg, <?xml                 a drawing
"""

import re

# How many bytes of a file say what it is.
HEAD = 64

_HEIC = re.compile(
    rb"....ftyp(heic|heix|heim|heis|hevc|hevx|hevm|hevs|mif1|msf1)", re.S
)
_AVIF = re.compile(rb"....ftypavi[fs]", re.S)
_VIDEO = re.compile(
    rb"....ftyp|....moov|\x1a\x45\xdf\xa3|RIFF....AVI |OggS|FLV\x01|\x30\x26\xb2\x75"
    rb"|\x00\x00\x01[\xb3\xba]",
    re.S,
)
_JPEG_XL = re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL ")
_DRAWING = re.compile(rb"\s*<(\?xml|svg|!DOCTYPE svg)")

_REMEDIES = (
    (_HEIC, "is HEIC: pip install -e '.[heic]', or save it as JPEG"),
    (
        _AVIF,
        "is AVIF, which this build of Pillow does not read: save it as PNG or JPEG",
    ),
    (_JPEG_XL, "is JPEG XL: save it as PNG or JPEG"),
    (re.compile(rb"%PDF"), "is a PDF: save its pages as PNG"),
    (_DRAWING, "is a drawing in XML (SVG): save it as PNG"),
)


def remedy_for(head: bytes) -> str | None:
    """Returns what a file is and what helps, for one that is no image to Pillow.

    head: its first HEAD bytes. None where they say nothing.
    """
    found = (remedy for pattern, remedy in _REMEDIES if pattern.match(head))
    return next(found, None)


def is_video(head: bytes) -> bool:
    """Returns whether a file begins as those of videos do (not all can be told)."""
    other = remedy_for(head)
    return other is None and _VIDEO.match(head) is not None
