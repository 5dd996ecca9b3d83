"""`python -m nigaoe.core.toy.build --work DIR [--out DIR]`: build the toy world from scratch."""

import argparse
import logging
from pathlib import Path

import torch

from nigaoe.core.models import TOY_WEIGHTS
from nigaoe.core.toy.build.stages import Build, Recipe


def main() -> None:
    """Parse arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder; a second run goes on in it")
    parser.add_argument("--out", type=Path, default=TOY_WEIGHTS, help="where the finished folders go")
    parser.add_argument("--threads", type=int, help="CPU threads; the weights that ship were built on 1")
    parser.add_argument("--only", nargs="+", default=(), metavar="STAGE", help="stages by the name of what they leave")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Build(arguments.work, arguments.out, Recipe()).run(arguments.only)


if __name__ == "__main__":
    main()
