"""An answer as a picture in DICOM: what a PACS shows that shows neither segmentations nor reports."""

import numpy as np
from highdicom.sc import SCImage

from fedmed_edge.images.series import MANUFACTURER
from fedmed_edge.inference.dicom_source import Source
from fedmed_edge.inference.preview import Colours

SERIES_NUMBER = 9003


def load_tables() -> None:
    """Have highdicom read its tables now: 20 MB of JSON, which the first object would else wait for."""
    any_object = SCImage(
        np.zeros((1, 1), np.uint8),
        "MONOCHROME2",
        8,
        "PATIENT",
        study_instance_uid="1.2",
        series_instance_uid="1.2.1",
        series_number=1,
        sop_instance_uid="1.2.2",
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "P"),
    )
    any_object.copy_patient_and_study_information(any_object)


def make_capture(source: Source, picture: Colours) -> SCImage:
    """Make the object.

    Args:
        picture: (rows, columns, 3) uint8, the words about research use drawn in.
    """
    made = SCImage.from_ref_dataset(
        source.first,
        picture,
        "RGB",
        8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        **source.identity("sc", SERIES_NUMBER),
    )
    # The picture is no plane of the patient that could be measured on: text stands beside it.
    made.PatientOrientation = []
    made.BurnedInAnnotation = "YES"
    made.ConversionType = "WSD"
    # Type 2C: empty where the source does not say.
    made.Laterality = str(source.first.get("Laterality") or "")
    return made
