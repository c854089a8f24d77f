"""Curves, histograms, projections and pole figures: arrays in, PNG bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse.uncertainty import Reliability
from pipeline.io.products import ResolutionCurve, SeriesAlignment, SeriesPreview
from pipeline.report.canvas import INK, LINES, MUTED, disc, percentile_limits, to_png

MAX_POLES = 2_000_000
"""Axes in a pole figure, taken evenly from all."""


def histogram(
    values: NDArray[np.floating],
    label: str,
    *,
    bands: Sequence[tuple[float, float, str]] = (),
    lines: Sequence[tuple[float, str]] = (),
    limits: tuple[float, float] | None = None,
    log: bool = False,
    counted: str = "voxels",
) -> bytes:
    """Histogram with shaded bands (thresholds) and marked values.

    Parameters
    ----------
    values : any shape; those that are not finite are left out.
    label : of the abscissa, with its unit.
    bands : lower and upper limit and name of each; an infinite limit ends at the plot's edge.
    lines : value and name of each.
    limits : of the abscissa; 0.1 and 99.9 % of the values when absent.
    log : logarithmic ordinate.
    counted : what the bars count.
    """
    edges, counts = histogram_bins(values, limits)
    low, high = float(edges[0]), float(edges[-1])

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for index, (start, stop, name) in enumerate(bands):
            colour = LINES[index % len(LINES)]
            ax.axvspan(max(start, low), min(stop, high), color=colour, alpha=0.18, lw=0, label=name)
        ax.stairs(counts, edges, fill=True, color="#5b6675", lw=0)
        for index, (value, name) in enumerate(lines):
            ax.axvline(value, color=LINES[(index + 1) % len(LINES)], lw=1.6, label=name)
        ax.set_xlim(low, high)
        ax.set_xlabel(label)
        ax.set_ylabel(f"number of {counted}")
        if log and counts.any():
            ax.set_yscale("log")
        if bands or lines:
            ax.legend()

    return to_png(draw, (5.2, 3.0))


def histogram_bins(
    values: NDArray[np.floating], limits: tuple[float, float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges (n + 1,) and counts (n,) of a histogram, as `histogram` draws them."""
    flat = values[np.isfinite(values)].ravel()
    low, high = limits or percentile_limits(flat, 0.001)
    if high - low < 1e-3 * abs(high):
        # One value up to rounding: a histogram of the rounding would mislead.
        low, high = high - 0.2 * abs(high), high + 0.2 * abs(high)
    bins = int(np.clip(np.sqrt(flat.size) / 2, 12, 120))
    counts, edges = np.histogram(flat, bins=bins, range=(low, high))
    return edges.astype(np.float64), counts.astype(np.float64)


def pole_density(axis: NDArray[np.floating], n_bins: int = 81) -> np.ma.MaskedArray:
    """Density of axes over the half sphere, in multiples of axes without preference.

    Parameters
    ----------
    axis : (3, n) unit vectors, sign-free.
    n_bins : along either side of the square around the disc.

    Returns
    -------
    (n_bins, n_bins) masked array, rows along y and columns along x in Lambert's equal-area
    projection along z, masked outside the disc.
    """
    # So many fix each bin to a percent; more would only take longer.
    some = axis[:, :: max(1, axis.shape[1] // MAX_POLES)]
    x, y, up = some * np.where(some[2] < 0, -1.0, 1.0)
    scale = 1.0 / np.sqrt(1.0 + np.abs(up))
    edges = np.linspace(-1.0, 1.0, n_bins + 1)
    counts, _, _ = np.histogram2d(y * scale, x * scale, bins=[edges, edges])
    centre = 0.5 * (edges[1:] + edges[:-1])
    inside = np.hypot(*np.meshgrid(centre, centre)) <= 1.0
    # Smoothed by some three degrees; the disc is smoothed along, so that its rim does not fade.
    smooth = ndimage.gaussian_filter(counts * inside, 1.5)
    smooth /= np.maximum(ndimage.gaussian_filter(inside.astype(float), 1.5), 1e-6)
    uniform = max(1, x.size) / np.count_nonzero(inside)
    return np.ma.masked_where(~inside, smooth / uniform)


def pole_figure(axis: NDArray[np.floating]) -> bytes:
    """Density of axes over the half sphere, relative to axes without preference.

    Parameters
    ----------
    axis : (3, n) unit vectors, sign-free.
    """
    density = pole_density(axis)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        top = max(2.0, float(np.quantile(density.compressed(), 0.99)))
        image = ax.imshow(
            density, origin="lower", extent=(-1, 1, -1, 1), cmap="cividis", vmin=0, vmax=top
        )
        disc(ax, "")
        for x_, y_, text in ((1.13, 0, "x"), (0, 1.13, "y")):
            ax.text(x_, y_, text, ha="center", va="center")
        ax.text(0.03, 0.03, "z", color="white")
        ax.plot(0, 0, ".", ms=4, color="white")
        figure.colorbar(image, ax=ax, label="multiples of uniform", shrink=0.8)

    return to_png(draw, (4.4, 3.4))


def projections(preview: SeriesPreview) -> bytes:
    """Raw phase above, aligned projection below, for a few angles of a series.

    Each row is one image: laying out a frame for each projection took most of the report's time.
    """
    n = len(preview.angles_deg)
    low, high = percentile_limits(preview.aligned, 0.005)
    angles = [f"{angle:.1f}°" for angle in preview.angles_deg]

    def draw(figure: Figure) -> None:
        rows = (
            ("raw phase", preview.raw, "twilight", -np.pi, np.pi),
            ("aligned", preview.aligned, "cividis_r", low, high),
        )
        for ax, (name, stack, cmap, vmin, vmax) in zip(figure.subplots(2, 1), rows, strict=True):
            image, centres = _strip(stack)
            shown = ax.imshow(image, origin="lower", cmap=cmap, vmin=vmin, vmax=vmax)
            ax.set_yticks([])
            ax.set_xticks(centres, angles if name == "raw phase" else [""] * n)
            ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False, labelcolor=INK)
            ax.spines[:].set_visible(False)
            ax.set_ylabel(name)
            figure.colorbar(shown, ax=ax, label="rad", shrink=0.9, pad=0.02)

    return to_png(draw, (1.0 + 1.55 * n, 3.2))


def _strip(stack: NDArray[np.floating]) -> tuple[NDArray[np.floating], list[float]]:
    """Images (n, y, x) side by side with transparent gaps; the columns of their centres."""
    n, height, width = stack.shape
    gap = max(1, round(0.05 * width))
    strip = np.full((height, n * (width + gap) - gap), np.nan, stack.dtype)
    starts = [m * (width + gap) for m in range(n)]
    for start, image in zip(starts, stack, strict=True):
        strip[:, start : start + width] = image
    return strip, [start + (width - 1) / 2.0 for start in starts]


def shifts(alignment: Mapping[str, SeriesAlignment]) -> bytes:
    """Shifts of every series against the angle: horizontal and vertical."""

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True)
        for index, (name, series) in enumerate(alignment.items()):
            order = np.argsort(series.angles_deg)
            style = {"color": LINES[index % 7], "lw": 1.0, "ls": ["-", "--"][(index // 7) % 2]}
            for ax, component in ((top, 1), (bottom, 0)):
                values = series.shifts_px[order, component]
                ax.plot(series.angles_deg[order], values, label=name, **style)
        top.set_ylabel("horizontal [pixel]")
        bottom.set_ylabel("vertical [pixel]")
        bottom.set_xlabel("rotation angle [degree]")
        handles, labels = top.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")

    return to_png(draw, (6.6, 3.8))


def convergence(alignment: Mapping[str, SeriesAlignment]) -> bytes:
    """Rms update of every series against the iteration."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for index, (name, series) in enumerate(alignment.items()):
            if series.updates_px.size == 0:
                continue
            rms = np.sqrt(np.mean(series.updates_px**2, axis=1))
            style = {"color": LINES[index % 7], "lw": 1.2, "ls": ["-", "--"][(index // 7) % 2]}
            ax.semilogy(np.arange(1, len(rms) + 1), np.maximum(rms, 1e-6), label=name, **style)
        ax.set_xlabel("iteration")
        ax.set_ylabel("rms update [pixel]")
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")

    return to_png(draw, (6.0, 3.0))


def convergence_of_projections(alignment: Mapping[str, SeriesAlignment]) -> bytes:
    """Update of each projection in each round, one panel for all series that moved together."""
    shown: dict[str, SeriesAlignment] = {}
    seen: list[NDArray[np.float64]] = []
    for name, series in alignment.items():
        known = any(np.array_equal(series.updates_px, other) for other in seen)
        if series.updates_px.size and not known:
            seen.append(series.updates_px)
            shown[name] = series

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for ax, (name, series) in zip(panels, shown.items(), strict=True):
            order = np.argsort(series.angles_deg)
            logarithm = np.log10(np.maximum(series.updates_px[:, order], 1e-3))
            image = ax.imshow(
                logarithm, aspect="auto", cmap="cividis", vmin=-3, vmax=1, interpolation="nearest"
            )
            ax.set_title(name, loc="left")
            ax.set_ylabel("round")
        panels[-1].set_xlabel("projection, by angle")
        bar = figure.colorbar(image, ax=list(panels), label="update [pixel]", ticks=range(-3, 2))
        bar.ax.set_yticklabels(["0.001", "0.01", "0.1", "1", "10"])

    return to_png(draw, (6.0, 0.6 + 1.2 * max(len(shown), 1)))


def joint_shifts(alignment: Mapping[str, SeriesAlignment]) -> bytes:
    """What the joint rounds added to the shifts of every series: horizontal and vertical."""
    found = {name: series for name, series in alignment.items() if series.joint_px.size}
    return shifts(
        {
            name: SeriesAlignment(series.joint_px, series.angles_deg)
            for name, series in found.items()
        }
    )


def residuals(curves: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Relative residual of every reconstruction against the iteration."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for index, (name, values) in enumerate(curves.items()):
            style = {"color": LINES[index % 7], "lw": 1.5}
            ax.semilogy(np.arange(1, len(values) + 1), values, label=name, **style)
        ax.set_xlabel("iteration")
        ax.set_ylabel("relative residual")
        ax.legend()

    return to_png(draw, (5.2, 3.0))


def shell_correlation(curves: Mapping[str, ResolutionCurve]) -> bytes:
    """Fourier shell correlations with the half-bit and one-bit thresholds."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for index, (name, curve) in enumerate(curves.items()):
            frequency = curve.frequency * 1e-6
            found = curve.half_bit_resolution_m * 1e9
            text = f"{name}: {found:.0f} nm" if np.isfinite(found) else name
            ax.plot(frequency, curve.correlation, color=LINES[index % 7], lw=1.5, label=text)
        first = next(iter(curves.values()))
        frequency = first.frequency * 1e-6
        ax.plot(frequency, first.half_bit, "--", color=MUTED, lw=1.0, label="half bit")
        ax.plot(frequency, first.one_bit, ":", color=MUTED, lw=1.0, label="one bit")
        ax.set_xlabel("spatial frequency [1/µm]")
        ax.set_ylabel("correlation of the halves")
        ax.set_ylim(-0.1, 1.05)
        ax.legend()

    return to_png(draw, (5.2, 3.0))


def reliability_curve(curve: Reliability) -> bytes:
    """Errors that were found against those that were stated, with a band of a quarter."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        most = 1.15 * float(max(curve.stated_deg.max(), curve.found_deg.max()))
        line = np.array([0.0, most])
        ax.fill_between(line, 0.75 * line, 1.25 * line, color=MUTED, alpha=0.2, lw=0)
        ax.plot(line, line, "--", color=MUTED, lw=1.0, label="as stated; within a quarter")
        ax.plot(curve.stated_deg, curve.found_deg, "o-", color=LINES[0], lw=1.5, label="found")
        ax.set(xlim=(0.0, most), ylim=(0.0, most), aspect="equal")
        ax.set_xlabel("stated median error [degree]")
        ax.set_ylabel("found median error [degree]")
        ax.legend()

    return to_png(draw, (3.8, 3.6))
