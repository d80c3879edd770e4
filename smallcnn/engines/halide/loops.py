"""Loops that the way forward and the way back share: one pass over memory, and sums over the images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import halide as hl

from smallcnn.engines.halide.arrays import LANES, MAPS, Stages, channel, lane, pack, row, which

Loop = tuple[hl.Func, hl.Var]  # a loop of a stage, in which another stage can be computed


def vector_by_vector(stage: hl.Func) -> hl.Func:
    """Schedules a stage without sums: one pass over memory, a vector at a time."""
    return stage.compute_root().reorder(*MAPS).vectorize(lane, LANES).parallel(pack)


def channel_sums(result: hl.Func, values: Sequence[hl.Func], filters: int, size: int, stages: Stages) -> Loop:
    """Sums functions of a pixel over the pixels and images of a pack, as `result`: `[pack, channel, value]`.

    Returns:
        The loop in which a row of a few channels is summed, for what is to be computed on the way.
    """
    pixel = hl.RDom([(0, size)], "pixel")
    all_rows = hl.RDom([(0, size)], "all_rows")
    image = hl.RDom([(0, LANES)], "image")
    in_row, by_lane = (hl.Func(f"{result.name()}_{part}") for part in ("in_row", "by_lane"))
    zeros = (hl.f32(0),) * len(values)
    in_row[lane, channel, row, pack] = zeros
    so_far = _parts(in_row[lane, channel, row, pack])
    in_row[lane, channel, row, pack] = tuple(
        hl.strict_float(sum_ + value[lane, pixel.x, row, channel, pack])
        for sum_, value in zip(so_far, values, strict=True)
    )
    by_lane[lane, channel, pack] = zeros
    so_far, row_sums = _parts(by_lane[lane, channel, pack]), _parts(in_row[lane, channel, all_rows.x, pack])
    by_lane[lane, channel, pack] = tuple(map(hl.strict_float, map(add, so_far, row_sums)))
    value = hl.mux(which, _parts(by_lane[image.x, channel, pack]))
    term = stages["lane_mask"][image.x, pack] * value
    result[which, channel, pack] = hl.f32(0)
    result[which, channel, pack] = hl.strict_float(result[which, channel, pack] + term)

    outer_channel, group = hl.Var("outer_channel"), channel_group(filters)
    result.compute_root().unroll(which, len(values))
    result.update().reorder(which, image.x, channel, pack).unroll(which, len(values)).parallel(pack)
    by_lane.compute_at(result, pack).vectorize(lane, LANES)
    sums = by_lane.update().split(channel, outer_channel, channel, group)
    sums.reorder(lane, channel, outer_channel, all_rows.x, pack).vectorize(lane, LANES).unroll(channel)
    in_row.compute_at(by_lane, outer_channel).vectorize(lane, LANES).unroll(channel)
    in_row.update().reorder(lane, channel, pixel.x, row, pack).vectorize(lane, LANES).unroll(channel)
    return by_lane, outer_channel


def _parts(reference: hl.FuncRef) -> list[hl.Expr]:
    """The values of a stage at a place, one or several."""
    return [reference[i] for i in range(len(reference))] if len(reference) > 1 else [hl.f32(reference)]


def channel_group(filters: int) -> int:
    """The channels that are worked on at a time where every one is a sum or a map of its own."""
    return next(group for group in (4, 2, 1) if filters % group == 0)


def sum_over_packs(by_pack: hl.Func, packs: int, *at: Any) -> hl.Expr:
    """Adds up what the packs have at `at`, in their order."""
    return hl.strict_float(reduce(add, (by_pack[(*at, each)] for each in range(packs))))


def in_double(stage: hl.Func) -> hl.Func:
    """The stage in double precision."""
    doubled = hl.Func("doubled")
    doubled[which, channel, pack] = hl.f64(stage[which, channel, pack])
    return doubled
