"""Builds the toy world's weights from nothing: `python -m nigaoe.core.toy.build --work DIR --out DIR`."""
