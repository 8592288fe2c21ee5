"""DICOM files written for one test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

WriteDicom = Callable[..., Path]
WriteSeries = Callable[..., Path]


@pytest.fixture
def write_dicom(tmp_path: Path) -> WriteDicom:
    """Write one image, (rows, columns) or (rows, columns, 3); a keyword sets an element, None drops it."""

    def write(
        name: str, stored: npt.NDArray[Any], *, syntax: UID = ExplicitVRLittleEndian, **elements: Any
    ) -> Path:
        bits = 8 * stored.dtype.itemsize
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.3", "1.2.3.4", "A"
        ds.Modality, ds.Rows, ds.Columns = "CT", *stored.shape[:2]
        ds.SamplesPerPixel = 1 if stored.ndim == 2 else 3
        ds.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
        if stored.ndim == 3:
            ds.PlanarConfiguration = 0
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit, ds.PixelRepresentation = bits - 1, int(stored.dtype.kind == "i")
        ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
        ds["PixelData"].VR = "OB" if bits == 8 else "OW"
        for keyword, value in elements.items():
            if value is not None:
                setattr(ds, keyword, value)
            elif keyword in ds:
                delattr(ds, keyword)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_series(write_dicom: WriteDicom, tmp_path: Path) -> WriteSeries:
    """Write slices (n, rows, columns) at `positions` (n, 3), as many files named in the order given."""

    def write(
        slices: npt.NDArray[Any],
        positions: npt.NDArray[np.float64] | None = None,
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        **elements: Any,
    ) -> Path:
        if positions is None:
            positions = np.array([[0.0, 0.0, 2.5 * k] for k in range(len(slices))])
        for k, (stored, position) in enumerate(zip(slices, positions, strict=True)):
            settings = {
                "PixelSpacing": [0.5, 0.75],
                "ImagePositionPatient": [f"{mm:.6f}" for mm in position],
                "ImageOrientationPatient": [f"{cosine:.9f}" for cosine in orientation],
                **elements,
            }
            write_dicom(f"series/{k:03}.dcm", stored, **settings)
        return tmp_path / "series"

    return write
