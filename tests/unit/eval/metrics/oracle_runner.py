"""Run by `test_oracles.py` in a process of its own: the figures of other implementations, as JSON.

Arguments: the folder they are installed in, and a file of features `real` and `fake`, float64.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import warnings
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


def main(folder: str, features: str) -> None:
    sys.meta_path.insert(0, StubFinder())
    sys.path.insert(0, folder)
    # scipy deprecates an argument of its square root that two of them pass.
    warnings.simplefilter("ignore")
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
    found = {
        "clean-fid fid": clean.frechet_distance(*moments),
        "clean-fid kid": clean.kernel_distance(real, fake, num_subsets=1, max_subset_size=len(real)),
        "pytorch-fid fid": pytorch_fid.calculate_frechet_distance(*moments),
        "torch-fidelity fid": fidelity_fid.fid_statistics_to_metric(*statistics, verbose=False),
        "torch-fidelity kid": fidelity_kid.kid_features_to_metric(*tensors, **subsets),
        "torch-fidelity prc": fidelity_prc.prc_features_to_metric(*tensors, **prc),
    }
    sys.stdout.write(json.dumps(found, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
