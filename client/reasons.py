"""What each coded reason means and what mends it, in one line for the hospital's staff."""

from typing import Final

MEANINGS: Final[dict[str, str]] = {
    "LINK": "a symbolic link: never followed; copy the file itself",
    "NOT_A_FILE": "a pipe, a device or a file that may not be read; check its permissions",
    "NOT_DICOM": "no DICOM file (PS3.10); nothing to do, or export it with its file header",
    "NOT_AN_IMAGE": "a DICOM object without an image that can be measured; nothing to do",
    "SOP_CLASS": "a kind of object that is not read here; nothing to do",
    "TRANSFER_SYNTAX": "a compression that is not read here; export it uncompressed",
    "TOO_LARGE": "more bytes or pixels than one file may cost; export it in parts",
    "TRUNCATED": "the file ends early; export it again",
    "UNREADABLE": "the file contradicts the standard or itself; export it again",
    "LOSSY": "compressed with loss, now or before: no longer what the scanner measured; export the original",
    "BURNED_IN": "text in the pixels: says the file, or (copies) was found, or a radiograph does not deny; export without",
    "SECONDARY": "a reformatted or captured image, which may have text burned in; export the original series",
    "CHARACTER_SET": "PatientID or its issuer is not in the character set that the file names; export it again, in UTF-8 say",
    "MODALITY": "another modality than the study's; nothing to do",
    "NO_RESCALE": "a CT without usable rescale slope and intercept: stored values are no HU; export it from the scanner",
    "NOT_FINITE": "pixels become infinite or no number; export it again",
    "NO_GEOMETRY": "position, orientation or pixel spacing is absent or senseless; export it from the scanner",
    "NO_IDENTITY": "PatientID or a UID is absent or malformed; export it again",
    "NO_TARGET": "contours, but none is called GTV, tumour, lesion or nodule; name the lesion so",
    "CONTOUR_OFF_SLICE": "a contour lies in none of the slices; draw it on this series",
    "SEGMENTATION_TYPE": "a segmentation that is fractional or has not exactly one segment; export one binary segment",
    "CRASHED": "the decoder died on it; export it again, uncompressed",
    "TIMED_OUT": "the decoder took too long; export it again, uncompressed",
    "COPY": "the same instance is there already, with the same pixels; nothing to do",
    "DUPLICATE_INSTANCE": "its SOPInstanceUID is used by another object; export the study again",
    "PATIENT_CHANGES": "one series names several patients; correct it in the PACS",
    "MIXED_MATRIX": "slices of one series differ in size; export the series apart",
    "SEVERAL_SEGMENTATIONS": "several segmentations of one series; leave one",
    "SEGMENTATION_WITHOUT_SERIES": "its images are not here, or were set aside; export them too",
    "SEGMENTATION_ELSEWHERE": "the segmentation was drawn in another frame of reference; draw it on this series",
    "SEVERAL_PHASES": "phases or echoes at the same positions, and the lesion is drawn on none or several; draw it on one",
    "SINGLE_SLICE": "one slice is no volume; export the whole series",
    "MIXED_FRAME_OF_REFERENCE": "slices of one series lie in several frames of reference; export them apart",
    "MIXED_ORIENTATION": "slices of one series are not parallel (a localiser?); export them apart",
    "MIXED_SPACING": "slices of one series differ in pixel spacing; export them apart",
    "DUPLICATE_POSITION": "several slices at one position (phases, echoes?); export one phase",
    "UNEVEN_SPACING": "slices are missing, or lie unevenly and the study does not resample them; export all of them",
    "SHEARED": "the gantry was tilted, and the study resamples no such series; use a reconstruction without tilt",
    "REGION_OFF_GRID": "the segmentation was drawn on another grid; draw it on this series",
    "REGION_OUTSIDE": "the segmentation leaves the image; draw it again",
    "REGION_IN_PADDING": "the segmentation covers pixels that the scanner did not measure; draw it again",
    "NO_REGION": "nobody drew a lesion; draw one, or leave the series",
    "EMPTY_REGION": "the segmentation is empty; draw it again",
    "REGION_TOO_SMALL": "the lesion has fewer than 8 voxels",
    "NO_CONTRAST": "all voxels of an MR are alike; export it again",
    "SEED_OUTSIDE": "the marked point lies outside the image; mark it again",
    "SEED_BOX": "less than three voxels to search, or a marked box that is wider than the study searches; mark it again",
    "NOTHING_FOUND": "no lesion was found at the marked point; draw it",
    "SEGMENTATION_LEAKED": "what was found from the marked point goes on beyond the study's reach; draw the lesion",
    "METHODS_DISAGREE": "the three ways to find the lesion from a point disagree; draw it",
    "FAILED": "a bug of ours met it: the vault's log has `internal-error` with the place; report it",
    "REGION_AT_BORDER": "the lesion touches the border of the image and may go on outside",
}
OTHER: Final = "see client/README.md"


def meaning(reason: str) -> str:
    """Return the sentence for a code; codes of a later version get a hint where to look."""
    return MEANINGS.get(reason, OTHER)
