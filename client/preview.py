"""motet-hospital preview: what a study's recipe makes of the hospital's own scans, as pictures before and after."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from client import points
from client import pseudonym as pseudonyms
from client.config import Home, pseudonym_key, read_site
from client.options import AsJson, Folder
from common import files, modality
from common import study as studies
from common.errors import GeometryRefused, NoScans

if TYPE_CHECKING:
    from client.imaging.segment import Quality
    from client.inside import Scan, Volume
    from client.points import Point
    from common.recipe import Recipe

out = Console(highlight=False)


def preview(
    home: Folder,
    study: Annotated[Path, typer.Option(help="The coordinator's study file; it need not be approved.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the pictures. They are a patient's: 0600, keep them inside.")],
    series: Annotated[int, typer.Option(min=1, max=100, help="How many series to show.")] = 3,
    as_json: AsJson = False,  # noqa: FBT002  (a flag)
) -> None:
    """Write PNGs of some series: before the recipe, after it with the lesion's outline and measured lines, and the edges.

    Pictures are numbered; no name, date or pseudonym is in a file's name or in what is printed. Where the study finds lesions
    from points that you mark, the quality of each is said: below its `agreement_min` a series would be set aside.
    """
    from client.imaging.guard import Guard  # noqa: PLC0415  (SimpleITK and the codecs are slow to import)
    from client.imaging.scan import read_scans, refuse_absent  # noqa: PLC0415
    from client.inside import SetAside  # noqa: PLC0415

    made = Home(home)
    site = read_site(made)
    asked = studies.parse(files.read(study))
    recipe = asked.recipe
    whole = modality.whole([one.name for one in asked.variables if one.source == "image"], modality=recipe.modality)
    pseudonym = pseudonyms.under(pseudonym_key(made))
    marked = points.read(site.points, pseudonym=pseudonym) if site.points and recipe.points else {}
    os.umask(0o077)
    refuse_absent(site.scans, written=folder)
    _make_empty(folder)
    shown: list[dict[str, Any]] = []
    with Guard() as reader, Console(stderr=True).status("reading scans") as working:
        try:
            for item in read_scans(
                site.scans,
                pseudonym=pseudonym,
                reader=reader,
                modality=recipe.modality,
                progress=lambda done, total: working.update(f"reading scans: {done} of {total} files"),
            ):
                if isinstance(item, SetAside):
                    continue
                point, number = marked.get(item.series), len(shown) + 1
                shown.append(_one(item, recipe=recipe, whole=whole, point=point, folder=folder, number=number))
                if len(shown) == series:
                    break
        except NoScans:
            if not shown:
                raise
    if as_json:
        out.print_json(json.dumps({"folder": str(folder), "series": shown}))
        return
    for one in shown:
        said = f"set aside: {one['reason']}" if one["reason"] else ", ".join(one["pictures"])
        if one["from_point"]:
            said += "; from a point, agreement {agreement:.2f}, contrast to noise {contrast_to_noise:.1f}".format(
                **one["from_point"]
            )
        out.print(f"series {one['number']}: {said}", markup=False, soft_wrap=True)


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise typer.BadParameter("the folder of the pictures is not empty", param_hint="FOLDER")


def _one(scan: "Scan", *, recipe: "Recipe", whole: bool, point: "Point | None", folder: Path, number: int) -> dict[str, Any]:
    """Write the pictures of one series and say which; a series that would be set aside says why."""
    from client.imaging.volume import assemble  # noqa: PLC0415

    shown: dict[str, Any] = {"number": number, "pictures": [], "from_point": None, "reason": None}
    names = shown["pictures"]
    try:
        volume, quality = _with_region(assemble(scan, irregular=recipe.irregular, whole=whole), point=point, recipe=recipe)
        if quality is not None:
            shown["from_point"] = {
                "agreement": quality.agreement,
                "contrast_to_noise": quality.contrast_to_noise,
                "leaked": quality.leaked,
            }
        for what, data in _pictures(volume, recipe=recipe, whole=whole):
            name = f"{number:03d}-{what}.png"
            files.write_new(folder / name, data, private=True)
            names.append(name)
    except GeometryRefused as error:
        shown["reason"] = str(error.reason)
    return shown


def _with_region(volume: "Volume", *, point: "Point | None", recipe: "Recipe") -> "tuple[Volume, Quality | None]":
    from client.imaging.segment import from_mark  # noqa: PLC0415

    how = recipe.points
    if volume.region is not None or point is None or how is None:
        return volume, None
    return from_mark(volume, mark_mm=point, reach_mm=float(how.reach_mm), method=how.method)


def _of_the_scanner(volume: "Volume") -> tuple[float, float]:
    """Return a window for numbers that have no unit yet: from the 1st to the 99th percentile of what was measured."""
    import numpy as np  # noqa: PLC0415

    measured = volume.voxels if volume.padding is None else volume.voxels[~volume.padding]
    low, high = np.percentile(measured, [1, 99]).tolist() if measured.size else (0.0, 0.0)
    return low, max(high, low + 1.0)


def _pictures(before: "Volume", *, recipe: "Recipe", whole: bool) -> Iterator[tuple[str, bytes]]:
    from client import picture  # noqa: PLC0415
    from client.imaging.lesion import locate  # noqa: PLC0415
    from client.imaging.prepare import prepare  # noqa: PLC0415
    from client.imaging.tensor import to_tensor  # noqa: PLC0415
    from client.measure import region  # noqa: PLC0415

    window = float(recipe.window_lower), float(recipe.window_upper)
    there = before.region is not None and bool(before.region.any())
    middle = int(before.region.sum(axis=(1, 2)).argmax()) if there and before.region is not None else len(before.voxels) // 2
    seen = window if before.modality == "CT" else _of_the_scanner(before)
    # what is all of the picture needs no outline
    yield "before", picture.of_slice(replace(before, region=None) if whole else before, z=middle, window=seen)
    after = locate(prepare(before, recipe=recipe), whole=whole)
    if whole:
        yield "after", picture.of_slice(replace(after, region=None), z=0, window=window)
    elif (chord := region.longest_chord(after)) is not None:
        yield "after", picture.measured(after, chord=chord, window=window)
    with_edges = recipe.model_copy(update={"edge_channel": True})
    edges = to_tensor(after, recipe=with_edges).pixels[1]
    yield "patch-edges", picture.edges(edges if edges.ndim == 2 else edges[len(edges) // 2])  # of a cube, its middle slice
