"""What the reference's 39 parameters are: for each name its number, code and unit, and bounds that hold for any lesion.

A study's dictionary takes unit and bounds from here where it does not say its own (common/variable.py). `IBSI` codes are those
of the IBSI manual (doi 10.1148/radiol.2020191145), `SCT` SNOMED CT and `DCM` attributes as DICOM has them; `99MOTET` is this
program's own scheme for what none of them names, spelled as DICOM wants private ones (PS3.16, 8.2). Angles of axes travel as
cos 2a and sin 2a, because 0 and 180 degrees are the same. Bounds of 1.01 leave room for rounding.
"""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number of an image: its place in the reference (P1 to P39, C for acquisition), code, unit and default bounds."""

    name: str
    number: str
    scheme: str
    code: str
    unit: str
    lower: Decimal
    upper: Decimal


_TABLE = """
P1  longest_diameter_mm            SCT     103339001 mm     0            1000
P2  short_axis_mm                  SCT     103340004 mm     0            1000
P3  diameter_3d_mm                 IBSI    L0JK      mm     0            1000
P4  major_axis_mm                  IBSI    TDIC      mm     0            1000
P5  minor_axis_mm                  IBSI    P9VJ      mm     0            1000
P6  least_axis_mm                  IBSI    7J51      mm     0            1000
P7  in_plane_angle_cos2            99MOTET P7-COS2   1      -1           1
P7  in_plane_angle_sin2            99MOTET P7-SIN2   1      -1           1
P8  major_polar_deg                99MOTET P8        deg    0            90
P9  major_azimuth_cos2             99MOTET P9-COS2   1      -1           1
P9  major_azimuth_sin2             99MOTET P9-SIN2   1      -1           1
P10 volume_mm3                     IBSI    RNU0      mm3    0            10000000
P11 surface_mm2                    IBSI    C0JK      mm2    0            1000000
P12 sphericity                     IBSI    QCFX      1      0            1
P13 elongation                     IBSI    Q3CK      1      0            1
P14 flatness                       IBSI    N17B      1      0            1
P15 solidity                       IBSI    R3ER      1      0            1
P16 surface_to_volume_per_mm       IBSI    2PR5      1/mm   0            100
P17 mean_hu                        IBSI    Q4LE      HU     -1024        3071
P18 sd_hu                          IBSI    ECT3      HU     0            2048
P19 median_hu                      IBSI    Y12H      HU     -1024        3071
P20 p10_hu                         IBSI    QG58      HU     -1024        3071
P21 p90_hu                         IBSI    8DWT      HU     -1024        3071
P22 skewness                       IBSI    KE2A      1      -1000        1000
P23 kurtosis                       IBSI    IPH6      1      -3           1000000
P24 intensity_entropy_bits         IBSI    TLU2      bit    0            8
P25 rms_hu                         IBSI    5ZWQ      HU     0            3071
P26 integrated_intensity_hu_mm3    IBSI    99N0      HU.mm3 -10240000000 30710000000
P26 mass_mg                        99MOTET P26       mg     0            50000000
P27 glcm_contrast                  IBSI    ACUI      1      0            26244
P28 glcm_correlation               IBSI    NI2N      1      -1.01        1.01
P29 glcm_inverse_difference_moment IBSI    WF0Z      1      0            1.01
P30 glcm_joint_entropy             IBSI    TU9B      1      0            16
P31 glrlm_short_runs_emphasis      IBSI    22OV      1      0            1.01
P32 glszm_zone_percentage          IBSI    P30P      1      0            1.01
P33 ngtdm_coarseness               IBSI    QCDE      1      0            1000000
P34 depth_min_mm                   99MOTET P34       mm     0            1000
P35 depth_centroid_mm              99MOTET P35       mm     0            1000
P36 wall_distance_mm               99MOTET P36       mm     0            1000
P37 centroid_left                  99MOTET P37-L     1      0            1
P37 centroid_posterior             99MOTET P37-P     1      0            1
P37 centroid_superior              99MOTET P37-S     1      0            1
P38 border_gradient_mean_hu_per_mm 99MOTET P38       HU/mm  0            100000
P39 edge_density                   99MOTET P39       1      0            1
C   slice_thickness_mm             DCM     0018,0050 mm     0            100
C   kvp                            DCM     0018,0060 kV     0            1000
C   manufacturer                   DCM     0008,0070 1      0            31
C   kernel                         DCM     0018,1210 1      0            31
"""


def _read(line: str) -> Parameter:
    number, name, scheme, code, unit, lower, upper = line.split()
    return Parameter(name=name, number=number, scheme=scheme, code=code, unit=unit, lower=Decimal(lower), upper=Decimal(upper))


FACTORS = frozenset({"manufacturer", "kernel"})  # a study declares which levels of them it knows
PARAMETERS: dict[str, Parameter] = {one.name: one for one in map(_read, _TABLE.strip().splitlines())}
