"""Pictures in rows and columns, as one picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP_PX = 8
_MARGIN_PX = 16
_FONT_PX = 19
_SMALL_FONT_PX = 14
_INK = (38, 36, 48)
_SOFT = (108, 104, 120)


def picture_grid(
    titles: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    names: Sequence[str] | None = None,
    tile_px: int = 192,
) -> Image.Image:
    """Each picture's middle square as a tile; `titles` stand over the columns, `names` under the first of each row."""
    font, small = ImageFont.load_default(_FONT_PX), ImageFont.load_default(_SMALL_FONT_PX)
    heads = [_wrapped(title, font, tile_px) for title in titles]
    line_px = round(_FONT_PX * 1.3)
    top = _MARGIN_PX + max(len(lines) for lines in heads) * line_px + _GAP_PX
    across, down = tile_px + _GAP_PX, tile_px + _GAP_PX + (round(_SMALL_FONT_PX * 1.5) if names else 0)
    size = 2 * _MARGIN_PX + len(titles) * across - _GAP_PX, top + len(rows) * down - _GAP_PX + _MARGIN_PX
    canvas = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for j, lines in enumerate(heads):
        x, y = _MARGIN_PX + j * across, top - _GAP_PX - len(lines) * line_px
        for k, line in enumerate(lines):
            middle = x + (tile_px - font.getlength(line)) / 2
            draw.text((middle, y + k * line_px), line, fill=_INK, font=font)
    for i, row in enumerate(rows):
        y = top + i * down
        for j, picture in enumerate(row):
            canvas.paste(_tile(picture, tile_px), (_MARGIN_PX + j * across, y))
        if names:
            draw.text((_MARGIN_PX, y + tile_px + 3), _shortened(names[i], small, tile_px), fill=_SOFT, font=small)
    return canvas


def _tile(picture: Image.Image, side_px: int) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((side_px, side_px), Image.Resampling.LANCZOS)


def _wrapped(text: str, font: Font, width_px: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width_px:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


def _shortened(name: str, font: Font, width_px: int) -> str:
    """Its end, which tells file names apart, where there is no room for all of it."""
    start = next((i for i in range(len(name)) if font.getlength(f"…{name[i:]}") <= width_px), len(name))
    return name if font.getlength(name) <= width_px else f"…{name[start:]}"
