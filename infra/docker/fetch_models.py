"""Load models once, so that exactly the files that are needed lie in HF_HOME, and are known to load."""

import argparse

from nigaoe.core.bases import load_base
from nigaoe.core.image_encoders import load_image_encoder


def main() -> None:
    """Load what the command line names, one after the other, so that memory holds one at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="*", default=[], metavar="NAME", help="As in `base` and `bases` of configs.")
    parser.add_argument("--image-encoders", nargs="*", default=[], metavar="NAME", help="As in `image_encoder`.")
    arguments = parser.parse_args()
    for name in arguments.bases:
        load_base(name)
    for name in arguments.image_encoders:
        load_image_encoder(name)


if __name__ == "__main__":
    main()
