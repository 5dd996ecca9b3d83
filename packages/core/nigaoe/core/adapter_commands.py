"""`nigaoe adapter inspect|convert|check`."""

from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from nigaoe.core.errors import AdapterError

adapter_app = typer.Typer(help="Look at adapter files and convert them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A .safetensors or .bin adapter, a raw trainer checkpoint, or toy/adapter.")]
VariantOption = Annotated[str | None, typer.Option(help="Which variant it is, where its keys leave a doubt.")]


class Dtype(StrEnum):
    """Number formats of a file."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@adapter_app.command("inspect")
def inspect(file: File, variant: VariantOption = None) -> None:
    """Say what a file is: variant, bases it fits, image encoder it needs, size, hash, metadata."""
    from nigaoe.core.adapters.inspection import inspect_adapter

    facts = inspect_adapter(file, variant)
    doubt = " (their keys are the same: say which by --variant)" if len(facts.variants) > 1 else ""
    lines = {
        "variant": " or ".join(facts.variants) + doubt,
        "bases": facts.family,
        "reads": "; ".join(facts.encoders),
        "tokens": "one per patch" if facts.num_tokens is None else str(facts.num_tokens),
        "LoRA": "none" if facts.lora_rank is None else f"rank {facts.lora_rank}",
        "parameters": f"{facts.parameters:,}",
        "numbers": ", ".join(facts.dtypes),
        "layout": facts.layout,
        "sha256": facts.sha256,
        **{f"metadata {key}": value for key, value in sorted(facts.metadata.items())},
    }
    width = max(len(name) for name in lines) + 2
    for name, value in lines.items():
        typer.echo(f"{name:{width}}{value}")


@adapter_app.command("convert")
def convert(
    source: File,
    out: Annotated[Path, typer.Argument(help="Where to write; .safetensors (flat) or .bin (nested).")],
    variant: VariantOption = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Another number format.")] = None,
) -> None:
    """Write an adapter of any published layout in the official one, with its variant in the metadata."""
    import torch

    from nigaoe.core.adapters.adapter import IPAdapter
    from nigaoe.core.adapters.files import read_adapter_file, save_adapter

    if out.suffix not in (".safetensors", ".bin"):
        raise AdapterError(f"{str(out)!r} ends in {out.suffix or 'nothing'!r}; give a name in .safetensors or .bin")
    stored = read_adapter_file(source)
    adapter = IPAdapter.of_state(stored.state, stored.variant(variant), stored.where)
    stored_dtype = next(iter(stored.state.values())).dtype
    metadata = {key: value for key, value in stored.metadata.items() if key != "format"}
    save_adapter(adapter, out, metadata, getattr(torch, dtype) if dtype else stored_dtype)
    typer.echo(f"wrote {out}: {adapter.variant.name}, {sum(p.numel() for p in adapter.parameters()):,} parameters")


@adapter_app.command("check")
def check(
    file: File,
    base: Annotated[str, typer.Option(help="Hub id, folder, toy/photo or toy/anime.")],
    image_encoder: Annotated[str | None, typer.Option(help="Image encoder that shall go with it.")] = None,
    variant: VariantOption = None,
) -> None:
    """Exit with 2 unless a file is whole, finite, comes back the same and fits a base (and an image encoder)."""
    import torch

    from nigaoe.core.adapters.adapter import IPAdapter
    from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
    from nigaoe.core.bases import load_base
    from nigaoe.core.image_encoders import load_image_encoder
    from nigaoe.core.image_prompts.features import require_encoder

    stored = read_adapter_file(file)
    adapter = IPAdapter.of_state(stored.state, stored.variant(variant), stored.where).float().eval()
    adapter.require_fit(load_base(base).unet)
    if image_encoder is not None:
        require_encoder(adapter, load_image_encoder(image_encoder), has_identity=True)
    with TemporaryDirectory() as folder:
        save_adapter(adapter, Path(folder) / "again.safetensors")
        again = load_adapter(Path(folder) / "again.safetensors").state_dict()
    changed = [key for key, value in adapter.state_dict().items() if not torch.equal(value, again[key])]
    if changed:
        raise AdapterError(f"adapter file {str(file)!r} does not come back the same: {changed[0]!r} differs")
    fits = f"base {base}" if image_encoder is None else f"base {base} and image encoder {image_encoder}"
    trained_with = stored.origin("image_encoder")
    if image_encoder is not None and trained_with not in (None, image_encoder):
        fits += f" (widths fit; the file names {trained_with!r})"
    typer.echo(f"{file}: {adapter.variant.name}, {len(adapter.state_dict())} weights, all finite; fits {fits}")
