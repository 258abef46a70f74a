"""What one file may cost: the guard's child keeps to it, and an answer above it is not believed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may cost."""

    file_bytes: int = 256 << 20
    inflated_bytes: int = 256 << 20
    pixels: int = 4096 * 4096  # of a CT slice
    region_voxels: int = 512 * 512 * 1024  # Rows x Columns x Frames of a segmentation
    frames: int = 4096
    frame_voxels: int = 1 << 27  # Rows x Columns x Frames of an enhanced image
    contour_points: int = 1 << 20  # of an RT Structure Set's lesion
    memory_bytes: int = 2 << 30
    shared_bytes: int = 640 << 20  # a file, or the arrays of an answer: frames are 512 MiB
    cpu_s: int = 20
    wall_s: float = 60.0
    files_open: int = 32
