"""A folder of files becomes scans: guarded, grouped by series, joined with their segmentation, and pseudonymised at once."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from client.imaging import contours, phases
from client.imaging.found import (
    Contours,
    Expecting,
    Found,
    Frames,
    Identity,
    Projection,
    Reader,
    Reason,
    Segmentation,
    Slice,
    series_key,
    series_of,
)
from client.inside import Scan, SetAside, freeze
from common.errors import ConfigError, NoScans
from common.modality import PLANAR

Pseudonym = Callable[[str, str], str]  # (kind, raw identifier) -> pseudonym; kinds: patient, series, frame
Progress = Callable[[int, int], None]  # (files done, files in all)

_KEPT_BYTES = 512 << 20  # decoded at the first reading and kept, so that a small folder is read once
_SERIES_VOXELS = 1 << 29  # 2 GiB as float32


@dataclass(slots=True)
class _Found:
    """A usable file: where, and what the first reading said; without pixels where they did not fit."""

    path: Path
    name: str
    image: Slice


@dataclass(slots=True)
class _Series:
    images: list[_Found] = field(default_factory=list)
    regions: list[tuple[Path, str, Segmentation | Contours]] = field(default_factory=list)


def read_scans(
    folder: Path, *, pseudonym: Pseudonym, reader: Reader, modality: str, progress: Progress | None = None
) -> Iterator[Scan | SetAside]:
    """Yield every usable series of `modality` under `folder`, and every file or series that is set aside with its reason.

    Files are taken in sorted order; links are not followed. A file that cannot be used costs itself; a series whose patient
    changes, whose slices differ in size, or that has several segmentations is set aside whole, under the name of its first
    file; of several phases or echoes the one that the region was drawn on is taken. Each radiograph (CR, DX) is a series of its
    own.
    Memory: one series and 512 MiB, however large the folder; a larger folder is read twice.
    `pseudonym("patient", raw)` gets the PatientID, with `^^^` and its issuer appended where there is an issuer.
    Raises NoScans, at the end, when no scan was yielded.
    """
    paths = _announced(list(_walk(folder)), reader=reader)
    counted = 0

    def step(readings: int) -> None:
        nonlocal counted
        counted += readings
        if progress is not None:
            progress(counted // 2, len(paths))

    named = lru_cache(maxsize=None)(pseudonym)
    groups: dict[tuple[str, ...], _Series] = {}
    segmentations: list[tuple[Path, str, Segmentation | Contours]] = []
    kept = 0
    for path in paths:
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        found = reader.read(path, with_pixels=kept < _KEPT_BYTES)
        if isinstance(found, Reason):
            yield SetAside(name=name, reason=found)
            step(2)
            continue
        if isinstance(found, Segmentation | Contours):
            segmentations.append((path, name, _headless(found)))
        elif slices := _slices(found, modality=modality):
            kept += sum(one.pixels.nbytes for one in slices if one.pixels is not None)
            key = series_key(slices[0].identity, modality=modality)
            groups.setdefault(key, _Series()).images.extend(_Found(path, name, one) for one in slices)
        else:
            yield SetAside(name=name, reason=Reason.MODALITY)
            step(1)
        step(1)
    yield from _attached(segmentations, groups=groups, step=step)
    yield from _strangers(groups.values(), step=step)
    yield from _of_several_patients(groups, step=step)
    scans = 0
    while groups:
        series = groups.pop(next(iter(groups)))  # let go of one series before the next is read
        files = len({found.path for found in series.images}) + len(series.regions)
        for result in _assembled(series, pseudonym=named, reader=reader):
            scans += isinstance(result, Scan)
            yield result
        step(files)
    if not scans:
        refuse_absent(folder)
        raise NoScans(
            f"There is no usable {modality} series in the folder.",
            action="Check the path and the reasons of what was set aside.",
        )


def refuse_absent(scans: Path, *, written: Path | None = None) -> None:
    """Raise NoScans where there is no folder `scans`, ConfigError where `written`, a folder to be made, would lie in it."""
    if not scans.is_dir():
        raise NoScans("The folder of scans is not there.", action="Check `scans` in site.toml, and that its disk is mounted.")
    if written is not None and written.resolve().is_relative_to(scans.resolve()):
        raise ConfigError("That folder would lie among the scans, and be read as one.", action="Choose a folder elsewhere.")


def _headless(found: Segmentation | Contours) -> Segmentation | Contours:
    return replace(found, planes=None, positions_mm=None) if isinstance(found, Segmentation) else contours.headless(found)


def _slices(found: Found, *, modality: str) -> tuple[Slice, ...]:
    """Return the slices of `modality` that a file holds; none of a segmentation or another modality."""
    if isinstance(found, Projection):
        found = _flat(found)
    slices = found.slices if isinstance(found, Frames) else (found,) if isinstance(found, Slice) else ()
    return tuple(one for one in slices if one.modality == modality)


def _flat(found: Projection) -> Slice:
    """Return a radiograph as a slice that lies nowhere: its spacing is all that is known of where it was taken."""
    return Slice(
        identity=found.identity,
        acquisition=found.acquisition,
        rows=found.rows,
        columns=found.columns,
        position_mm=np.zeros(3),
        orientation=np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
        spacing_mm=found.spacing_mm,
        pixels=found.pixels,
        modality=found.modality,
    )


def _announced(paths: list[Path], *, reader: Reader) -> list[Path]:
    if isinstance(reader, Expecting):
        reader.expect(paths)
    return paths


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in sorted(files + links))


def _attached(
    segmentations: list[tuple[Path, str, Segmentation | Contours]],
    *,
    groups: dict[tuple[str, ...], _Series],
    step: Callable[[int], None],
) -> Iterator[SetAside]:
    for path, name, region in segmentations:
        group = groups.get(whole := (region.identity.study, region.of_series)) or groups.get((*whole, *region.references))
        if group is None:
            yield SetAside(name=name, reason=Reason.SEGMENTATION_WITHOUT_SERIES)
            step(1)
        else:
            group.regions.append((path, name, region))


def _strangers(groups: Iterable[_Series], *, step: Callable[[int], None]) -> Iterator[SetAside]:
    """Take out what carries an SOPInstanceUID that another series used before; UIDs are unique (PS3.5, 9)."""
    owner: dict[str, int] = {}
    for number, series in enumerate(groups):
        mine, series.images = series.images, []
        for found in mine:
            if owner.setdefault(found.image.identity.instance, number) == number:
                series.images.append(found)
            else:
                yield SetAside(name=found.name, reason=Reason.DUPLICATE_INSTANCE)
                step(1)


def _of_several_patients(groups: dict[tuple[str, ...], _Series], *, step: Callable[[int], None]) -> Iterator[SetAside]:
    """Take out the radiographs of a series that names several patients; other series are looked at as a whole."""
    named: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for key, series in groups.items():
        people = named.setdefault(key[:2], set())
        people.update((found.image.identity.issuer, found.image.identity.patient_id) for found in series.images)
    for key, series in groups.items():
        if len(key) > 2 and len(named[key[:2]]) > 1:  # a radiograph: study, series and instance
            for found in series.images:
                yield SetAside(name=found.name, reason=Reason.PATIENT_CHANGES)
                step(1)
            series.images = []


def _assembled(series: _Series, *, pseudonym: Pseudonym, reader: Reader) -> Iterator[Scan | SetAside]:
    if not series.images:
        yield from (SetAside(name=name, reason=Reason.SEGMENTATION_WITHOUT_SERIES) for _, name, _ in series.regions)
        return
    first = series.images[0]
    chosen = _refusal(series) or _drawn_on(series)
    if isinstance(chosen, Reason):
        yield SetAside(name=first.name, reason=chosen)
        return
    series.images = chosen
    kept: dict[str, int] = {}  # SOPInstanceUID -> row of `pixels`
    slices: list[Slice] = []
    pixels = np.empty((len(series.images), first.image.rows, first.image.columns), np.float32)
    last: dict[Path, Found | Reason] = {}
    for found in series.images:
        image = found.image if found.image.pixels is not None else _again(found, reader=reader, last=last)
        if isinstance(image, Reason) or image.pixels is None:
            yield SetAside(name=found.name, reason=image if isinstance(image, Reason) else Reason.UNREADABLE)
            continue
        before = kept.setdefault(image.identity.instance, len(slices))
        if before < len(slices):
            same = np.array_equal(pixels[before], image.pixels, equal_nan=True) and _placed_alike(slices[before], image)
            yield SetAside(name=found.name, reason=Reason.COPY if same else Reason.DUPLICATE_INSTANCE)
            continue
        pixels[len(slices)] = image.pixels
        slices.append(replace(image, pixels=None))
        found.image = slices[-1]  # its pixels are in memory once
    if not slices:
        yield from (SetAside(name=name, reason=Reason.SEGMENTATION_WITHOUT_SERIES) for _, name, _ in series.regions)
        return
    region: Segmentation | None = None
    for path, name, _ in series.regions:
        answer = reader.read(path, with_pixels=True)
        if isinstance(answer, Contours):
            answer = contours.filled(answer, slices=slices)
        if not isinstance(answer, Segmentation):  # a scan without its region would be a different scan
            yield SetAside(name=name, reason=answer if isinstance(answer, Reason) else Reason.UNREADABLE)
            yield SetAside(name=first.name, reason=Reason.UNREADABLE)
            return
        region = answer if slices[0].modality not in PLANAR else replace(answer, spacing_mm=slices[0].spacing_mm)
    yield _scan(slices, pixels=pixels[: len(slices)], region=region, pseudonym=pseudonym)


def _refusal(series: _Series) -> Reason | None:
    """Return why the whole series is set aside, from its headers."""
    images = [found.image for found in series.images]
    identities = [image.identity for image in images] + [region.identity for _, _, region in series.regions]
    if len({(who.issuer, who.patient_id) for who in identities}) > 1:
        return Reason.PATIENT_CHANGES
    if len(series.regions) > 1:
        return Reason.SEVERAL_SEGMENTATIONS
    if len({(image.rows, image.columns) for image in images}) > 1:
        return Reason.MIXED_MATRIX
    if len(images) * images[0].rows * images[0].columns > _SERIES_VOXELS:
        return Reason.TOO_LARGE
    frames = {image.identity.frame_of_reference for image in images}
    if any(region.identity.frame_of_reference not in frames for _, _, region in series.regions):
        return Reason.SEGMENTATION_ELSEWHERE
    return None


def _drawn_on(series: _Series) -> list[_Found] | Reason:
    """Return the files of the one phase or echo that the region lies on, all of them where there is but one."""
    instances = {found.image.identity.instance: found.image for found in series.images}
    slices = list(instances.values())
    references = [one for _, _, region in series.regions for one in region.references]
    rows = phases.of_region(slices, references=references)
    if isinstance(rows, Reason):
        return rows
    wanted = {slices[at].identity.instance for at in rows}
    return [found for found in series.images if found.image.identity.instance in wanted]


def _again(found: _Found, *, reader: Reader, last: dict[Path, Found | Reason]) -> Slice | Reason:
    """Read a file for its pixels; it must still be what it was at the first reading. `last` keeps a file of many frames."""
    if found.path not in last:
        last.clear()
        last[found.path] = reader.read(found.path, with_pixels=True)
    answer = last[found.path]
    if isinstance(answer, Reason):
        return answer
    for one in _slices(answer, modality=found.image.modality):
        if one.identity == found.image.identity and _placed_alike(one, found.image):
            return one
    return Reason.UNREADABLE


def _placed_alike(one: Slice, other: Slice) -> bool:
    return (one.rows, one.columns) == (other.rows, other.columns) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("position_mm", "orientation", "spacing_mm")
    )


def _raw_patient(who: Identity) -> str:
    return f"{who.patient_id}^^^{who.issuer}" if who.issuer else who.patient_id


def _scan(slices: list[Slice], *, pixels: np.ndarray, region: Segmentation | None, pseudonym: Pseudonym) -> Scan:
    who = slices[0].identity
    if region is not None and region.planes is not None and region.positions_mm is not None:
        freeze(region.planes, region.positions_mm, region.orientation, region.spacing_mm)
    return Scan(
        patient=pseudonym("patient", _raw_patient(who)),
        series=pseudonym("series", series_of(who, modality=slices[0].modality)),
        modality=slices[0].modality,
        frame_of_reference=tuple(pseudonym("frame", image.identity.frame_of_reference) for image in slices),
        pixels=pixels,
        positions_mm=np.stack([image.position_mm for image in slices]),
        orientations=np.stack([image.orientation for image in slices]),
        spacings_mm=np.stack([image.spacing_mm for image in slices]),
        acquisition=slices[0].acquisition,
        region_planes=None if region is None else region.planes,
        region_positions_mm=None if region is None else region.positions_mm,
        region_orientation=None if region is None else region.orientation,
        region_spacing_mm=None if region is None else region.spacing_mm,
    )
