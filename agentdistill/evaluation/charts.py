"""Small inline SVG pictures for reports. They take their colours from the page's style sheet.

Guaranteed: plain SVG without scripts or references; names are escaped. Written by hand because a
matplotlib picture can't follow a reader's light or dark setting, and weighs a hundred times more.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

_COLOURS = ("var(--accent)", "var(--second)", "var(--third)", "var(--fourth)")
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 14, 40

Points = Sequence[tuple[int, float]]


def interval_bar(value: float, low: float, high: float) -> str:
    """A share in 0..1 as a bar with its interval as a whisker."""
    value, low, high = (100 * min(1.0, max(0.0, number)) for number in (value, low, high))
    return (
        '<svg viewBox="0 0 100 12" preserveAspectRatio="none" role="img" '
        f'aria-label="{value:.1f} %, interval {low:.1f} to {high:.1f} %">'
        '<rect x="0" y="3" width="100" height="6" fill="var(--line)"/>'
        f'<rect x="0" y="3" width="{value:.2f}" height="6" fill="var(--accent)"/>'
        f'<g stroke="var(--ink)" stroke-width="1.5" vector-effect="non-scaling-stroke">'
        f'<path d="M{low:.2f} 6H{high:.2f}M{low:.2f} 2V10M{high:.2f} 2V10" fill="none" '
        'vector-effect="non-scaling-stroke"/></g></svg>'
    )


def count_bar(count: int, most: int) -> str:
    """A count as a bar; `most` fills it."""
    width = 100 * count / most if most else 0.0
    return (
        f'<svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{count}">'
        f'<rect width="{width:.2f}" height="6" fill="var(--accent)"/></svg>'
    )


def loss_chart(curves: Mapping[str, Points]) -> str:
    """Loss over optimizer steps, a line a curve: the smoothed course, the raw steps pale behind it."""
    curves = {name: [p for p in points if math.isfinite(p[1])] for name, points in curves.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    last = max(step for points in curves.values() for step, _ in points)
    top = max(loss for points in curves.values() for _, loss in points)
    ticks = _ticks(top)
    top = max(ticks[-1], top) or 1.0

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step / last if last else 0.0)

    def y(loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - loss / top)

    def path(points: Points) -> str:
        return "M" + "L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in points)

    parts = [
        f'<path d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]
    parts += [
        f'<text x="{x(step):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{step}</text>'
        for step in _steps(last)
    ]
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">optimizer step</text>')
    for index, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-opacity=".3"/>')
        parts.append(f'<path d="{path(_smooth(points))}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        label = f"{name}: {points[0][1]:.2f} → {_smooth(points)[-1][1]:.2f}"
        where, edge = _TOP + 8 + 18 * index, _WIDTH - _RIGHT
        parts.append(
            f'<rect x="{edge - 10}" y="{where - 9}" width="10" height="10" rx="2" fill="{colour}"/>'
            f'<text x="{edge - 16}" y="{where}" text-anchor="end" fill="var(--ink)">'
            f"{html.escape(label)}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="training loss" font-size="12" '
        f'fill="var(--dim)" font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def _smooth(points: Points) -> list[tuple[int, float]]:
    """A centred running mean over about a twelfth of the curve."""
    reach = max(1, len(points) // 24)
    losses = [loss for _, loss in points]
    return [
        (step, sum(window) / len(window))
        for index, (step, _) in enumerate(points)
        for window in [losses[max(0, index - reach) : index + reach + 1]]
    ]


def _ticks(top: float) -> list[float]:
    """Round values from 0 to just above `top`, four or five of them."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    width = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= rough)
    return [width * index for index in range(math.ceil(top / width) + 1)]


def _steps(last: int) -> list[int]:
    return [round(tick) for tick in _ticks(last) if tick <= last and tick == round(tick)]
