"""Run by the tests in a process of its own: what other implementations say, as JSON.

Arguments: the folder they are installed in, one of the functions below, and its argument.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any


def _anything(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything(name, (), {})


class Anything(type):
    """A class that has every attribute, again such a class: enough for what is imported and never used."""

    def __getattr__(cls, name: str) -> Any:
        return _anything(name)


class Stub(ModuleType):
    """A module that has every attribute."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return _anything(name)


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision, which these packages import for their networks."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        is_missing = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_missing else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def distances(features: str) -> dict[str, Any]:
    """Between features `real` and `fake`, float64, of a file."""
    sys.meta_path.insert(0, StubFinder())
    import numpy as np
    import torch

    # By name: mypy knows none of them.
    clean = importlib.import_module("cleanfid.fid")
    pytorch_fid = importlib.import_module("pytorch_fid.fid_score")
    fidelity_fid, fidelity_kid, fidelity_prc = (
        importlib.import_module(f"torch_fidelity.metric_{name}") for name in ("fid", "kid", "prc")
    )
    with np.load(features) as arrays:
        real, fake = arrays["real"], arrays["fake"]
    moments = [value for x in (real, fake) for value in (x.mean(axis=0), np.cov(x, rowvar=False))]
    statistics = [fidelity_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (real, fake)]
    subsets = {"kid_subsets": 1, "kid_subset_size": len(real), "rng_seed": 0, "verbose": False}
    prc = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    return {
        "clean-fid fid": clean.frechet_distance(*moments),
        "clean-fid kid": clean.kernel_distance(real, fake, num_subsets=1, max_subset_size=len(real)),
        "pytorch-fid fid": pytorch_fid.calculate_frechet_distance(*moments),
        "torch-fidelity fid": fidelity_fid.fid_statistics_to_metric(*statistics, verbose=False),
        "torch-fidelity kid": fidelity_kid.kid_features_to_metric(*tensors, **subsets),
        "torch-fidelity prc": fidelity_prc.prc_features_to_metric(*tensors, **prc),
    }


def inception(folder: str) -> dict[str, Any]:
    """Ours and torch-fidelity's of random weights, their features of the same pictures left in the folder."""
    import numpy as np
    import torch
    from PIL import Image

    from nigaoe.eval.metrics.space import space_of
    from nigaoe.eval.scoring import inception as ours
    from nigaoe.eval.scoring.weights import file_fingerprint

    sys.meta_path.insert(0, StubFinder())
    base = importlib.import_module("torch_fidelity").FeatureExtractorInceptionV3
    untrained = type("Untrained", (base,), {"load_state_dict": lambda self, state: None})
    file = Path(folder) / "weights.pth"
    torch.save({}, file)
    torch.manual_seed(0)
    network = untrained("random", ["2048"], str(file))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            # Torch's own start would fade to nothing over so many layers.
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), file)
    # Only the published weights have the published hash.
    ours.FID_INCEPTION = file_fingerprint(file)[:8]
    extractor = ours.FidInception.load(file)
    rng = np.random.default_rng(0)
    sizes = ((40, 56), (299, 299), (40, 56), (320, 64), (96, 96), (40, 56))
    pixels = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    with torch.no_grad():
        theirs = [network(torch.from_numpy(x.transpose(2, 0, 1)[None].copy()))[0].numpy() for x in pixels]
    np.savez(
        Path(folder) / "features.npz",
        theirs=np.concatenate(theirs),
        ours=extractor.features([Image.fromarray(x) for x in pixels]),
        floats=extractor.features([x.astype(np.float32) / 255 for x in pixels]),
        again=ours.FidInception.load(file).features(pixels),
    )
    modes = [module.training for module in extractor.network.modules()]
    return {"space": space_of(extractor).__dict__, "hash": file_fingerprint(file), "trains": any(modes)}


def without_torchvision(folder: str) -> dict[str, Any]:
    """What our loader says where torch-fidelity is there and torchvision is not."""
    import torch

    from nigaoe.core.errors import BaseModelError
    from nigaoe.eval.scoring import inception as ours
    from nigaoe.eval.scoring.weights import file_fingerprint

    file = Path(folder) / "weights.pth"
    torch.save({}, file)
    ours.FID_INCEPTION = file_fingerprint(file)[:8]
    try:
        ours.FidInception.load(file)
    except BaseModelError as error:
        return {"said": str(error)}
    return {}


def main(folder: str, task: str, argument: str) -> None:
    sys.path.insert(0, folder)
    # scipy deprecates an argument of its square root that two of them pass.
    warnings.simplefilter("ignore")
    found = {"distances": distances, "inception": inception, "without_torchvision": without_torchvision}[task](argument)
    sys.stdout.write(json.dumps(found, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
