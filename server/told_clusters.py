"""Clusters told: centres and spreads as tables, densities in the plane of principal components; no point is a patient."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from server import plots
from server.tables import table
from server.told_linear import Parts


def clusters(found: Mapping[str, Any], _: Mapping[str, Any], key: str) -> Parts:
    """Tell clusters: centres, sizes, and their densities in a plane."""
    columns = found["columns"]
    heads = {name: name for name in columns}
    centres = np.array(found.get("centres") or found["means"])
    sizes = np.array(found.get("members") or found["weights"], dtype=np.float64)
    spreads = np.array(found["standard_deviations"]) if "means" in found else None
    rows = [
        {"cluster": at + 1, "size": size, **dict(zip(columns, centre, strict=True))}
        for at, (size, centre) in enumerate(zip(found.get("members") or found["weights"], centres.tolist(), strict=True))
    ]
    tables = [table("Centres", ("cluster", "size", *columns), rows, heads=heads)]
    if found.get("candidates"):
        tables.append(table("Number of clusters", ("k", "silhouette", "within", "diagnosis"), found["candidates"]))
    if spreads is not None:
        widths = [{"cluster": at + 1, **dict(zip(columns, row, strict=True))} for at, row in enumerate(spreads.tolist())]
        tables.append(table("Standard deviations", ("cluster", *columns), widths, heads=heads))
    drawn = _plane(centres, sizes / sizes.sum(), spreads, found, key) if len(columns) > 1 else []
    return tables, drawn, "Clusters are drawn as densities made from their sums: no point is a patient."


def _plane(
    centres: np.ndarray, shares: np.ndarray, spreads: np.ndarray | None, found: Mapping[str, Any], key: str
) -> list[Markup]:
    """Draw the clusters in the plane of the first two principal components of the patients' scatter, as the sums give it."""
    n, p = found["n"], centres.shape[1]
    mean = shares @ centres
    between = (centres - mean).T @ ((centres - mean) * shares[:, None])
    if spreads is None:  # k-means: round clusters of one width, in each column's standard deviations
        width = math.sqrt(max(found["within"] / (n * p), 1e-12))
        scale = np.sqrt(np.diag(between) / max(1 - width**2, 1e-6))
        within = [np.eye(p) * width**2] * len(centres)
    else:
        scale = np.sqrt(np.diag(between) + shares @ spreads**2)
        within = [np.diag((row / scale) ** 2) for row in spreads]
    if not np.all(scale > 0):
        return []
    z = (centres - mean) / scale
    total = z.T @ (z * shares[:, None]) + sum(share * one for share, one in zip(shares, within, strict=True))
    axes = np.linalg.eigh(total)[1][:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), [0, 1]])
    groups = [
        {"centre": axes.T @ at, "spread": axes.T @ one @ axes, "share": share}
        for at, one, share in zip(z, within, shares.tolist(), strict=True)
    ]
    return [plots.clusters(groups, axes=("first principal component", "second principal component"), key=key)]
