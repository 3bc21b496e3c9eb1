"""The figures of a bench as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def tables(figures: dict[str, Any]) -> list[Table]:
    """One of the steps, one of the stages."""
    return [_steps(figures), _stages(figures)]


def _steps(figures: dict[str, Any]) -> Table:
    title = f"{figures['preset']}, {figures['image_px'][0]} px, {figures['machine']}, {figures['threads']} threads"
    table = Table(
        "dtype", "frame", "variant", "GFLOP", "floor ms", "ms", "of the product ceiling", "x official", title=title
    )
    for row in figures["rows"]:
        table.add_row(
            *(row["dtype"], str(row["frame"]), row["variant"], f"{row['gflop']:.1f}", f"{row['floor_ms']:.1f}"),
            *(f"{row['ms_p50']:.1f}", f"{100 * row['of_product_ceiling']:.0f} %"),
            f"{row['times_official']:.2f}" if "times_official" in row else "",
        )
    return table


def _stages(figures: dict[str, Any]) -> Table:
    table = Table("dtype", "variant", "stage", "GFLOP", "floor ms", "ms", "floor / ms")
    for row in figures["stages"]:
        known = "floor_ms" in row
        table.add_row(
            *(row["dtype"], row["variant"], row["stage"]),
            f"{row['gflop']:.2f}" if known else "",
            f"{row['floor_ms']:.2f}" if known else "",
            f"{row['ms_p50']:.2f}",
            f"{100 * row['floor_ms'] / row['ms_p50']:.0f} %" if known and row["ms_p50"] else "",
        )
    return table
