"""All frames of a series through one step, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.preprocess.crop import Crop
from pipeline.preprocess.resample import SAME_SCALE, resampled_shape
from pipeline.progress import Progress, ProgressCallback
from schemas.recipe import ResampleSettings

PrepareFrame = Callable[[NDArray[Any]], tuple[NDArray[Any], Mapping[str, float]]]
"""From a frame to the image of the stack and its diagnostics by name."""


def target_pixel(
    pixel_size_m: float, target_pixel_m: float | None, resample: ResampleSettings
) -> float:
    """Pixel size [m] of a stack: the one asked for, else the recipe's, else the frames' own.

    Raises
    ------
    InputError
        If resampling is needed but switched off.
    """
    target = target_pixel_m or resample.pixel_size_m or pixel_size_m
    if not resample.enabled and abs(target / pixel_size_m - 1.0) >= SAME_SCALE:
        raise InputError(
            f"pixel size {pixel_size_m:g} m differs from the common {target:g} m, and resampling "
            "is off",
            field="resample.enabled",
        )
    return target


def prepared_shape(
    shape: tuple[int, int], pixel_size_m: float | None, resample: ResampleSettings
) -> tuple[int, int]:
    """Shape (ny, nx) of frames once they have the pixel size that the recipe asks for."""
    if pixel_size_m is None or resample.pixel_size_m is None:
        return shape
    return resampled_shape(shape, resample.pixel_size_m / pixel_size_m)


def prepare_frames(
    frames: Iterable[NDArray[Any]],
    n: int,
    one: PrepareFrame,
    names: Sequence[str],
    *,
    crop: Crop | None,
    progress: ProgressCallback,
    stage: str,
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float64]]]:
    """Stack of the images that a step makes of every frame, and their diagnostics.

    Parameters
    ----------
    frames : (ny, nx) each, all of one shape.
    n : frames that there should be.
    one : the step.
    names : of the diagnostics.
    crop : part of every frame to use; all of it when absent.
    progress : told after every frame.
    stage : name under which progress is told.

    Returns
    -------
    data : (n, ny, nx) float32.
    found : name -> (n,) float64.

    Raises
    ------
    InputError
        If there are more or fewer frames, they differ in shape, or the step refuses one.
    """
    data: NDArray[np.float32] | None = None
    shape: tuple[int, ...] = ()
    found = {name: np.zeros(n) for name in names}
    count = 0
    for count, raw in enumerate(frames, start=1):
        if count > n:
            raise InputError(f"expected {n} frames, one for each angle, found more")
        frame = raw if crop is None else raw[crop]
        shape = shape or frame.shape
        if frame.shape != shape:
            raise InputError(
                f"frame {count - 1}: expected shape {shape} as in frame 0, found {frame.shape}"
            )
        try:
            image, values = one(frame)
        except InputError as error:
            raise InputError(f"frame {count - 1}: {error.message}", field=error.field) from error
        if data is None:
            data = np.empty((n, *image.shape), np.float32)
        data[count - 1] = image
        for name, value in values.items():
            found[name][count - 1] = value
        progress(Progress(stage, count, n))
    if data is None or count < n:
        raise InputError(f"expected {n} frames, one for each angle, found {count}")
    return data, found
