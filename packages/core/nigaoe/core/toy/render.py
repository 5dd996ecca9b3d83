"""Draw a toy person in either style. Everything is a smooth outline; a brush decides how paint looks.

Coordinates: the picture's side is 1, the origin is the middle of the face, y points down.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from nigaoe.core.toy.people import Identity, Scene, Style

Point = tuple[float, float]
Colour = tuple[int, int, int]

SIZE_PX = 96
_OVERSAMPLING = 3

_SKIN: tuple[Colour, ...] = ((255, 224, 200), (232, 180, 132), (168, 110, 70), (96, 60, 44))
_HAIR: tuple[Colour, ...] = (
    (38, 32, 42),
    (118, 72, 42),
    (244, 208, 104),
    (210, 82, 34),
    (236, 236, 242),
    (66, 106, 222),
)
_EYES: tuple[Colour, ...] = ((122, 66, 22), (36, 120, 240), (24, 160, 66), (166, 50, 206))
_HEADWEAR: tuple[Colour, ...] = ((0, 0, 0), (218, 48, 50), (44, 154, 82), (248, 206, 50))
_BACKGROUND: tuple[Colour, ...] = (
    (214, 96, 90),
    (112, 176, 116),
    (104, 152, 220),
    (240, 216, 122),
    (164, 166, 174),
    (244, 172, 204),
)
_SHIRT: tuple[Colour, ...] = (
    (204, 54, 54),
    (50, 146, 84),
    (58, 92, 196),
    (240, 200, 66),
    (244, 244, 246),
    (52, 52, 60),
)
_INK: Colour = (44, 30, 44)
_WHITE: Colour = (255, 255, 255)
_FACE_HALF_WIDTH = (0.146, 0.180, 0.216)
_FACE_HALF_HEIGHT = 0.215


def _mix(a: Colour, b: Colour, amount: float) -> Colour:
    return (
        round(a[0] + (b[0] - a[0]) * amount),
        round(a[1] + (b[1] - a[1]) * amount),
        round(a[2] + (b[2] - a[2]) * amount),
    )


def _darker(colour: Colour, amount: float) -> Colour:
    return _mix(colour, (30, 14, 40), amount)


def _lighter(colour: Colour, amount: float) -> Colour:
    return _mix(colour, _WHITE, amount)


def _smooth(points: Sequence[Point], closed: bool = True, steps: int = 6) -> list[Point]:
    """Catmull-Rom curve through the points."""
    n = len(points)
    out: list[Point] = []
    for i in range(n if closed else n - 1):
        if closed:
            p0, p1, p2, p3 = points[i - 1], points[i], points[(i + 1) % n], points[(i + 2) % n]
        else:
            p0, p1, p2, p3 = points[max(i - 1, 0)], points[i], points[i + 1], points[min(i + 2, n - 1)]
        for k in range(steps):
            t = k / steps
            a, b, c, d = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (t**3 - t**2) / 2,
            )
            out.append((a * p0[0] + b * p1[0] + c * p2[0] + d * p3[0], a * p0[1] + b * p1[1] + c * p2[1] + d * p3[1]))
    if not closed:
        out.append(points[-1])
    return out


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 2 * math.pi, n: int = 26
) -> list[Point]:
    return [
        (cx + rx * math.cos(start + (stop - start) * i / n), cy + ry * math.sin(start + (stop - start) * i / n))
        for i in range(n + 1)
    ]


def _mirrored(half: Sequence[Point]) -> list[Point]:
    """Close an outline given from top to bottom on its right side."""
    return [*half, *((-x, y) for x, y in reversed(half) if abs(x) > 1e-6)]


class _Brush:
    """Paints outlines. Photo: soft volume from the light. Anime: flat colour, ink lines, one hard shadow."""

    def __init__(self, scene: Scene, style: Style, background: Colour) -> None:
        self.scene, self.is_anime = scene, style == "anime"
        self.side = SIZE_PX * _OVERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side), background)
        self._cos, self._sin = math.cos(scene.tilt_rad), math.sin(scene.tilt_rad)

    def place(self, points: Sequence[Point]) -> list[Point]:
        s, side = self.scene, self.side
        return [
            (
                ((x * self._cos - y * self._sin) * s.scale + 0.5 + s.offset_x) * side,
                ((x * self._sin + y * self._cos) * s.scale + 0.545 + s.offset_y) * side,
            )
            for x, y in points
        ]

    def _mask(self, points: Sequence[Point]) -> Image.Image:
        mask = Image.new("L", (self.side, self.side), 0)
        ImageDraw.Draw(mask).polygon(self.place(points), fill=255)
        return mask

    def shape(self, points: Sequence[Point], colour: Colour, volume: float = 0.0, ink: float = 0.011) -> None:
        """Fill an outline. `volume`: how round it looks; `ink`: width of its line in anime (0: none)."""
        if not self.is_anime and volume > 0:
            self._paint_soft(points, colour, volume)
        else:
            ImageDraw.Draw(self.image).polygon(self.place(points), fill=colour)
        if self.is_anime:
            if volume > 0:
                self._paint_cel_shadow(points, colour, volume)
            if ink > 0:
                self.line([*points, points[0]], _mix(_INK, colour, 0.12), ink)

    def _paint_soft(self, points: Sequence[Point], colour: Colour, volume: float) -> None:
        mask = self._mask(points)
        reach = self.side * 0.05 * volume
        small = mask.resize((self.side // 4, self.side // 4), Image.Resampling.BOX)
        lit = small.filter(ImageFilter.GaussianBlur(reach / 4)).resize(mask.size, Image.Resampling.BILINEAR)
        shift = round(self.scene.light * self.scene.light_strength * reach * 0.8), round(-reach * 0.3)
        moved = lit.copy()
        moved.paste(lit, shift)
        strength = 0.34 + 0.2 * self.scene.light_strength
        bright = Image.new("RGB", mask.size, _lighter(colour, 0.07))
        dark = Image.new("RGB", mask.size, _darker(colour, strength))
        self.image.paste(Image.composite(bright, dark, moved), (0, 0), mask)

    def _paint_cel_shadow(self, points: Sequence[Point], colour: Colour, volume: float) -> None:
        mask = self._mask(points)
        reach = self.side * 0.035 * volume
        side = 1 if self.scene.light >= 0 else -1
        kept = mask.copy()
        kept.paste(mask, (round(side * reach), round(-reach * 0.5)))
        shadow = Image.new("RGB", mask.size, _darker(colour, 0.2))
        inverse = kept.point([255 - v for v in range(256)])
        both = Image.new("L", mask.size, 0)
        both.paste(mask, (0, 0), inverse)
        self.image.paste(shadow, (0, 0), both)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        draw = ImageDraw.Draw(self.image)
        placed = self.place(points)
        w = max(1, round(width * self.side * self.scene.scale))
        draw.line(placed, fill=colour, width=w, joint="curve")
        for x, y in (placed[0], placed[-1]):
            draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=colour)

    def glow(self, cx: float, cy: float, radius: float, colour: Colour, amount: float) -> None:
        """A soft spot: blush, bokeh, a sheen."""
        small = self.side // 4
        mask = Image.new("L", (small, small), 0)
        ((x, y),) = self.place([(cx, cy)])
        r = radius * small
        ImageDraw.Draw(mask).ellipse((x / 4 - r, y / 4 - r, x / 4 + r, y / 4 + r), fill=round(255 * amount))
        mask = mask.filter(ImageFilter.GaussianBlur(r * 0.5)).resize(self.image.size, Image.Resampling.BILINEAR)
        self.image.paste(Image.new("RGB", self.image.size, colour), (0, 0), mask)


def render(identity: Identity, scene: Scene, style: Style, size_px: int = SIZE_PX) -> Image.Image:
    """Draw one portrait, RGB, `size_px` square. The same arguments give the same picture."""
    rng = random.Random(scene.seed)
    is_anime = style == "anime"
    tone = (
        (lambda c: c) if is_anime else (lambda c: _mix(_mix(c, (128, 120, 116), 0.1), (0, 0, 0), rng.uniform(0.0, 0.1)))
    )
    skin, hair, eyes = tone(_SKIN[identity.skin]), tone(_HAIR[identity.hair]), tone(_EYES[identity.eyes])
    shirt, hat = tone(_SHIRT[scene.shirt]), tone(_HEADWEAR[identity.headwear])
    background = (
        _BACKGROUND[scene.background] if is_anime else _darker(_BACKGROUND[scene.background], rng.uniform(0.05, 0.25))
    )
    brush = _Brush(scene, style, background)
    _draw_background(brush, background, rng)
    half_width = _FACE_HALF_WIDTH[identity.face]
    _draw_back_hair(brush, identity, half_width, hair)
    _draw_body(brush, identity, skin, shirt)
    _draw_face(brush, identity, half_width, skin)
    if identity.beard:
        _draw_beard(brush, half_width, hair)
    _draw_mouth(brush, identity, scene, skin)
    _draw_eyes(brush, identity, half_width, skin, hair, eyes)
    _draw_front_hair(brush, identity, half_width, hair)
    if identity.glasses:
        _draw_glasses(brush, identity, half_width)
    if identity.headwear:
        _draw_headwear(brush, half_width, hat)
    return _develop(brush, rng).resize((size_px, size_px), Image.Resampling.LANCZOS)


def _draw_background(brush: _Brush, colour: Colour, rng: random.Random) -> None:
    if brush.is_anime:
        side = brush.side
        ImageDraw.Draw(brush.image).polygon([(0, 0), (side, 0), (0, side)], fill=_lighter(colour, 0.22))
        return
    brush.glow(-0.3 * brush.scene.light, -0.25, 0.42, _lighter(colour, 0.45), 0.75)
    for _ in range(4):
        brush.glow(
            rng.uniform(-0.5, 0.5),
            rng.uniform(-0.5, 0.3),
            rng.uniform(0.05, 0.12),
            _lighter(colour, 0.5),
            rng.uniform(0.1, 0.35),
        )


def _draw_body(brush: _Brush, identity: Identity, skin: Colour, shirt: Colour) -> None:
    is_woman = identity.gender == 1
    shoulder, neck = (0.27, 0.062) if is_woman else (0.37, 0.1)
    top = 0.285
    brush.shape(
        _mirrored(
            _smooth(
                [
                    (0.0, top - 0.01),
                    (neck + 0.03, top - 0.015),
                    (shoulder * 0.8, top + 0.03),
                    (shoulder, top + 0.09),
                    (shoulder + 0.06, 0.85),
                ],
                closed=False,
            )
        ),
        shirt,
        volume=1.3,
    )
    brush.shape(
        _mirrored([(neck, 0.12), (neck * 0.95, 0.22), (neck * 1.15, top), (neck * 0.6, top + 0.05), (0.0, top + 0.07)]),
        _darker(skin, 0.18),
        volume=0.6,
    )
    brush.line(
        _smooth(
            [
                (-neck * 1.2, top - 0.005),
                (-neck * 0.6, top + 0.055),
                (0.0, top + 0.075),
                (neck * 0.6, top + 0.055),
                (neck * 1.2, top - 0.005),
            ],
            closed=False,
        ),
        _darker(shirt, 0.3),
        0.016,
    )


def _draw_face(brush: _Brush, identity: Identity, w: float, skin: Colour) -> None:
    h, is_woman = _FACE_HALF_HEIGHT, identity.gender == 1
    for sign in (-1, 1):
        brush.shape(_ellipse(sign * (w + 0.006), 0.015, 0.032, 0.05), _darker(skin, 0.1), volume=0.3)
        if is_woman:
            brush.shape(_ellipse(sign * (w + 0.014), 0.088, 0.021, 0.024), (250, 206, 70), ink=0.006)
    jaw = 0.62 if is_woman else 0.84
    chin = 0.16 if is_woman else 0.36
    outline = [
        (0.0, -h),
        (w * 0.62, -h * 0.88),
        (w * 0.98, -h * 0.35),
        (w, h * 0.1),
        (w * jaw, h * 0.68),
        (w * chin, h * 0.98),
        (0.0, h * 1.03),
    ]
    brush.shape(_smooth(_mirrored(outline)), skin, volume=1.3)
    blush = _mix(skin, (232, 80, 90), 0.55 if is_woman else 0.25)
    for sign in (-1, 1):
        brush.glow(sign * w * 0.62, 0.085, 0.035, blush, 0.75)
    turn = brush.scene.turn * 0.014
    if brush.is_anime:
        brush.line([(turn * 1.6 - 0.004, 0.068), (turn * 1.6 + 0.01, 0.078)], _darker(skin, 0.5), 0.011)
    else:
        nose = [(turn + 0.0, -0.005), (turn * 1.6 + 0.026, 0.07), (turn * 1.6, 0.086), (turn * 1.6 - 0.026, 0.07)]
        brush.shape(_smooth(nose), _darker(skin, 0.1), volume=0.35)


def _draw_beard(brush: _Brush, w: float, hair: Colour) -> None:
    h = _FACE_HALF_HEIGHT
    half = [
        (0.0, 0.098),
        (0.05, 0.086),
        (0.085, 0.11),
        (w * 0.8, 0.05),
        (w * 1.02, 0.0),
        (w * 1.0, h * 0.45),
        (w * 0.84, h * 0.88),
        (w * 0.4, h * 1.14),
        (0.0, h * 1.2),
    ]
    brush.shape(_smooth(_mirrored(half), steps=4), _darker(hair, 0.12), volume=0.8)


def _draw_mouth(brush: _Brush, identity: Identity, scene: Scene, skin: Colour) -> None:
    is_woman = identity.gender == 1
    x, y = scene.turn * 0.014, 0.135
    lips: Colour = (208, 36, 66) if is_woman else _mix(_darker(skin, 0.42), (150, 50, 50), 0.35)
    if scene.expression:
        half = 0.068
        mouth = _smooth(
            [
                (x - half, y - 0.012),
                (x, y + 0.0),
                (x + half, y - 0.012),
                (x + half * 0.5, y + 0.034),
                (x - half * 0.5, y + 0.034),
            ]
        )
        brush.shape(mouth, (252, 250, 246), ink=0.0)
        brush.line([*mouth, mouth[0]], lips, 0.02 if is_woman else 0.012)
    elif is_woman:
        brush.shape(
            _smooth(
                [
                    (x - 0.046, y),
                    (x - 0.016, y - 0.016),
                    (x, y - 0.01),
                    (x + 0.016, y - 0.016),
                    (x + 0.046, y),
                    (x, y + 0.028),
                ]
            ),
            lips,
            ink=0.0,
        )
    else:
        brush.line([(x - 0.05, y + 0.004), (x + 0.05, y + 0.004)], lips, 0.015)


def _draw_eyes(brush: _Brush, identity: Identity, w: float, skin: Colour, hair: Colour, eyes: Colour) -> None:
    is_woman = identity.gender == 1
    spread, y = w * 0.47, -0.012 if brush.is_anime else -0.02
    rx, ry = (0.061, 0.072) if brush.is_anime else (0.056, 0.037)
    iris_x, iris_y = (0.042, 0.062) if brush.is_anime else (0.036, 0.036)
    shift = brush.scene.turn * 0.01
    for sign in (-1, 1):
        cx = sign * spread + shift
        brush.shape(_ellipse(cx, y, rx, ry), (252, 252, 254), ink=0.0)
        iris = [(px, max(y - ry, min(y + ry, py))) for px, py in _ellipse(cx + shift, y, iris_x, iris_y)]
        brush.shape(iris, eyes, ink=0.0)
        if brush.is_anime:
            brush.shape(
                _ellipse(cx + shift, y + iris_y * 0.5, iris_x * 0.7, iris_y * 0.38), _lighter(eyes, 0.4), ink=0.0
            )
        brush.shape(_ellipse(cx + shift, y, iris_x * 0.42, iris_y * 0.42), _darker(eyes, 0.85), ink=0.0)
        glint = 0.013 if brush.is_anime else 0.009
        brush.shape(_ellipse(cx + shift - iris_x * 0.35, y - iris_y * 0.42, glint, glint), _WHITE, ink=0.0)
        # The inner corner stands higher than the outer one: the other way round everybody looks angry.
        lid = _smooth(
            [(cx - sign * rx * 0.8, y - ry * 0.75), (cx, y - ry * 1.04), (cx + sign * rx, y - ry * 0.2)], closed=False
        )
        lash: Colour = _INK if (is_woman or brush.is_anime) else _darker(skin, 0.6)
        brush.line(lid, lash, 0.024 if is_woman else 0.012)
        if is_woman:
            brush.line(
                [(cx + sign * rx * 0.95, y - ry * 0.25), (cx + sign * (rx + 0.024), y - ry * 0.25 - 0.008)], lash, 0.016
            )
        brow = _darker(hair, 0.35) if identity.hair != 0 else _INK
        top = y - ry - (0.034 if is_woman else 0.03)
        inner, outer = cx - sign * rx * 0.85, cx + sign * rx
        arch = _smooth([(inner, top - 0.002), (cx, top - 0.01), (outer, top + 0.022)], closed=False)
        brush.line(arch, brow, 0.011 if is_woman else 0.026)


def _draw_glasses(brush: _Brush, identity: Identity, w: float) -> None:
    spread, y, shift = w * 0.49, -0.012, brush.scene.turn * 0.01
    is_round = identity.glasses == 1
    # Black and round against red and square: two cues, so that the kind survives a small latent.
    frame: Colour = (36, 32, 40) if is_round else (214, 30, 44)
    r = max(w * 0.42, 0.066)
    for sign in (-1, 1):
        cx = sign * spread + shift
        rim = _ellipse(cx, y, r, 0.082) if is_round else _box(cx, y, r, 0.068)
        brush.line(rim, frame, 0.023)
    brush.line([(shift - spread + r, y - 0.008), (shift + spread - r, y - 0.008)], frame, 0.022)


def _box(cx: float, cy: float, rx: float, ry: float) -> list[Point]:
    corners = [(cx - rx, cy - ry), (cx + rx, cy - ry), (cx + rx, cy + ry), (cx - rx, cy + ry)]
    return [*corners, corners[0], (cx, cy - ry)]


def _draw_back_hair(brush: _Brush, identity: Identity, w: float, hair: Colour) -> None:
    behind = _darker(hair, 0.2)
    match identity.hair_style:
        case 2:
            half = [
                (0.0, -0.3),
                (w * 0.8, -0.26),
                (w + 0.065, -0.08),
                (w + 0.085, 0.08),
                (w + 0.06, 0.19),
                (w * 0.6, 0.2),
                (0.0, 0.2),
            ]
            brush.shape(_smooth(_mirrored(half)), behind, volume=0.8)
        case 3:
            half = [
                (0.0, -0.3),
                (w * 0.8, -0.26),
                (w + 0.06, -0.08),
                (w + 0.075, 0.14),
                (w + 0.085, 0.36),
                (w + 0.06, 0.7),
                (0.0, 0.7),
            ]
            brush.shape(_smooth(_mirrored(half)), behind, volume=0.8)
        case 4:
            for i in range(13):
                angle = math.pi * (0.84 + 1.32 * i / 12)
                brush.shape(
                    _ellipse((w + 0.045) * math.cos(angle), -0.055 + 0.225 * math.sin(angle), 0.078, 0.074),
                    behind,
                    volume=0.5,
                )
        case _:
            pass


def _draw_front_hair(brush: _Brush, identity: Identity, w: float, hair: Colour) -> None:
    match identity.hair_style:
        case 0:
            half = [
                (0.0, -0.262),
                (w * 0.6, -0.245),
                (w + 0.022, -0.13),
                (w + 0.016, -0.03),
                (w * 0.93, -0.055),
                (w * 0.8, -0.135),
                (w * 0.3, -0.155),
                (0.0, -0.15),
            ]
            brush.shape(_smooth(_mirrored(half)), hair, volume=0.7)
        case 1:
            _draw_spikes(brush, w, hair)
        case 2:
            half = [
                (0.0, -0.295),
                (w * 0.75, -0.26),
                (w + 0.05, -0.1),
                (w + 0.06, 0.08),
                (w * 0.98, 0.13),
                (w * 0.86, 0.02),
                (w * 0.84, -0.085),
                (w * 0.4, -0.1),
                (0.0, -0.1),
            ]
            brush.shape(_smooth(_mirrored(half)), hair, volume=0.8)
        case 3:
            left = [
                (-w * 0.15, -0.285),
                (w * 0.65, -0.26),
                (w + 0.045, -0.1),
                (w + 0.055, 0.2),
                (w + 0.02, 0.3),
                (w * 0.94, 0.08),
                (w * 0.7, -0.09),
                (w * 0.2, -0.19),
            ]
            right = [
                (w * 0.3, -0.285),
                (-w * 0.65, -0.265),
                (-w - 0.045, -0.1),
                (-w - 0.055, 0.2),
                (-w - 0.02, 0.3),
                (-w * 0.94, 0.08),
                (-w * 0.75, -0.1),
                (0.0, -0.21),
            ]
            brush.shape(_smooth(left), hair, volume=0.7)
            brush.shape(_smooth(right), hair, volume=0.7)
        case _:
            for i in range(8):
                angle = math.pi * (1.02 + 0.96 * i / 7)
                brush.shape(
                    _ellipse(w * 0.92 * math.cos(angle), -0.085 + 0.14 * math.sin(angle), 0.068, 0.062),
                    hair if i % 2 else _darker(hair, 0.12),
                    volume=0.5,
                )
    if identity.hair_style in (0, 2, 3):
        sheen = _smooth([(-w * 0.6, -0.195), (-w * 0.1, -0.232), (w * 0.45, -0.215)], closed=False)
        if brush.is_anime:
            brush.line(sheen, _lighter(hair, 0.5), 0.016)
        else:
            brush.glow(-w * 0.3 * brush.scene.light, -0.215, 0.04, _lighter(hair, 0.5), 0.35)


def _draw_spikes(brush: _Brush, w: float, hair: Colour) -> None:
    tips = 9
    outline: list[Point] = []
    for i in range(tips):
        a0, a1 = math.pi * (0.98 + 1.04 * i / tips), math.pi * (0.98 + 1.04 * (i + 0.5) / tips)
        outline.append(((w + 0.012) * math.cos(a0), -0.07 + 0.15 * math.sin(a0)))
        outline.append(((w + 0.115) * math.cos(a1), -0.075 + 0.285 * math.sin(a1)))
    outline.append(((w + 0.012) * math.cos(math.pi * 2.02), -0.07))
    fringe = 5
    for i in range(fringe):
        x = w * (0.84 - 1.68 * i / fringe)
        outline += [(x, -0.15), (x - w * 0.84 / fringe, -0.085)]
    outline.append((-w * 0.84, -0.15))
    brush.shape(outline, hair, volume=0.6)


def _draw_headwear(brush: _Brush, w: float, colour: Colour) -> None:
    wide = w + 0.045
    crown = _mirrored([(0.0, -0.37), (wide * 0.55, -0.35), (wide * 0.93, -0.26), (wide, -0.15), (0.0, -0.15)])
    brush.shape(_smooth(crown), colour, volume=1.0)
    band = _smooth(
        [
            (-wide - 0.012, -0.2),
            (0.0, -0.215),
            (wide + 0.012, -0.2),
            (wide + 0.016, -0.135),
            (0.0, -0.145),
            (-wide - 0.016, -0.135),
        ]
    )
    brush.shape(band, _darker(colour, 0.2), volume=0.4)
    brush.shape(_ellipse(0.0, -0.38, 0.045, 0.042), _lighter(colour, 0.25), volume=0.4)


def _develop(brush: _Brush, rng: random.Random) -> Image.Image:
    """A photo is a little soft, unevenly lit and grainy; a drawing is not."""
    if brush.is_anime:
        return brush.image
    side = SIZE_PX * 2
    image = brush.image.resize((side, side), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.7))
    pixels = np.asarray(image, np.float32)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    scene = brush.scene
    light = 1 - 0.16 * scene.light_strength * (scene.light * ramp[None, :] + 0.4 * ramp[:, None])
    grain = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 2.5, (side, side, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels * light[..., None] + grain, 0, 255).astype(np.uint8))
