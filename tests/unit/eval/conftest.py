"""What looks at pictures, and pictures to look at."""

import pytest

from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.judge import JudgeScorer
from toy_people import People, draw_people


@pytest.fixture(scope="session")
def clip() -> ClipScorer:
    return ClipScorer.load("toy/clip")


@pytest.fixture(scope="session")
def judge() -> JudgeScorer:
    return JudgeScorer.load()


@pytest.fixture(scope="session")
def people() -> People:
    return draw_people(12)
