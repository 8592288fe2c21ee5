"""How answers are written."""

from dataclasses import dataclass
from typing import Literal

from fedmed_edge.errors import InputError

FORMATS = ("json", "csv", "seg", "sr", "sc", "nifti", "png")
"""`json` result.json · `csv` a row of results.csv · `seg`, `sr`, `sc` DICOM · `nifti`, `png` masks."""

DICOM_FORMATS = ("seg", "sr", "sc")


@dataclass(frozen=True)
class Options:
    """What is written for each answer; what an input is not fit for is left out by itself.

    Attributes:
        formats: Some of `FORMATS`.
        seg: Kind of DICOM segmentation: one bit a voxel and class, which every viewer takes, or a label map.
        preview: Write a preview picture, too.
        lenient: Resample volumes whose slices are no regular stack, in place of refusing them.
        seg_keep_empty: Also store frames that hold nothing, between the first and the last of a segment that
            do: some viewers place frames one after another.
        named: The formats were asked for by name: of one that an input is not fit for it is told why.
    """

    formats: frozenset[str] = frozenset(FORMATS)
    seg: Literal["binary", "labelmap"] = "binary"
    preview: bool = False
    lenient: bool = False
    named: bool = False
    seg_keep_empty: bool = False

    @property
    def setting(self) -> str:
        """What of it changes an answer: part of the UIDs of what is written."""
        return f"{self.seg}{' lenient' if self.lenient else ''}{' keep-empty' if self.seg_keep_empty else ''}"


def parse_formats(text: str) -> frozenset[str]:
    """The formats in a list such as `json,seg,sr`.

    Raises:
        InputError: One of them is unknown, or there is none.

    Example:
        >>> sorted(parse_formats("seg, json"))
        ['json', 'seg']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise InputError(
            f"`--format` has {', '.join(unknown) or 'none'}, expected some of {','.join(FORMATS)}"
        )
    return frozenset(names)
