"""DICOM in."""
