"""What torchmetrics draws of a metric, made readable: it names the class, and writes over the marks."""

from typing import Any


def relabelled(drawn: tuple[Any, Any], name: str) -> tuple[Any, Any]:
    """A plot that names the metric as reports do, and explains the marks beside them.

    `drawn` is what torchmetrics returned: a figure of its own or None, and matplotlib's axes.
    """
    figure, axes = drawn
    axes.set_ylabel(name)
    for text in axes.texts:
        # At the bound that is best, where torchmetrics crosses it with the line of that bound.
        text.set(x=1.01, transform=axes.get_yaxis_transform(), text="best", ha="left", va="center")
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        own = [label.removeprefix(f"{name}_") for label in labels]
        # Grows upwards with its rows; torchmetrics lets it hang over the marks.
        axes.legend(handles, own, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    if figure is not None:
        figure.set_layout_engine("constrained")
    return figure, axes
