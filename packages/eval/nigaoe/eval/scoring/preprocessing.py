"""What an image processor of transformers does to a picture, in words by which figures are told apart."""

from typing import Any

from PIL import Image


def preprocessing_of(processor: Any) -> str:
    """Its steps, such as 'shortest edge 224 px bicubic, centre 224 x 224 px, times 0.0039, less 0.5, over 0.5'."""
    settings: dict[str, Any] = processor.to_dict()
    steps = []
    if settings.get("do_resize"):
        steps.append(f"{_sides(settings['size'])} {Image.Resampling(settings['resample']).name.lower()}")
    if settings.get("do_center_crop"):
        steps.append(f"centre {_sides(settings['crop_size'])}")
    if settings.get("do_rescale"):
        steps.append(f"times {settings['rescale_factor']:.8g}")
    if settings.get("do_normalize"):
        steps += [f"less {_channels(settings['image_mean'])}", f"over {_channels(settings['image_std'])}"]
    return ", ".join(steps) or "as it is"


def _sides(size: dict[str, int]) -> str:
    if size.keys() == {"height", "width"}:
        return f"{size['width']} x {size['height']} px"
    return " ".join(f"{side.replace('_', ' ')} {length} px" for side, length in sorted(size.items()))


def _channels(values: list[float]) -> str:
    told = [f"{value:.8g}" for value in values]
    return told[0] if len(set(told)) == 1 else " ".join(told)
