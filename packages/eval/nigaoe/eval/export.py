"""What somebody else needs to draw the same samples: references, prompts, seeds, and the names to save under."""

import json
from pathlib import Path

from tqdm import tqdm

from nigaoe.core.atomic import write_whole
from nigaoe.core.errors import ConfigError
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.making.folder_pictures import METADATA
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.protocols.protocol import DRAWN, CellPlan, row_seed


def export(config: EvalConfig, out: Path) -> list[Path]:
    """Write a folder per kind of order, and return them; each is named after the first cell that asks for it.

    `<cell>/metadata.jsonl` has a line per picture: `file_name` to save it under, `prompt`, `reference` beside it, and
    `seed`, for whoever has the same noise. Cells that differ in base, adapter or scale alone ask for the same.

    Raises:
        ConfigError: No cell of the evaluation is drawn.
    """
    protocol = make_protocol(config)
    orders: dict[tuple[str | None, str], CellPlan] = {}
    for cell in protocol.cells():
        if cell.source in DRAWN:
            orders.setdefault((cell.prompt, cell.variant), cell)
    if not orders:
        raise ConfigError("the evaluation draws nothing; give it a base")
    folders = []
    for cell in orders.values():
        folder, lines = out / cell.name, []
        for place in tqdm(range(cell.n), desc=cell.name, unit="sample"):
            sample = protocol.sample(cell, place)
            reference = f"references/{protocol.reference_index(cell, place):07d}.png"
            if not (folder / reference).is_file():
                (folder / reference).parent.mkdir(parents=True, exist_ok=True)
                sample.reference.save(folder / reference)
            line = {"file_name": f"{sample.id}.png", "prompt": sample.prompt, "reference": reference}
            lines.append(json.dumps({**line, "seed": row_seed(config.seed, place)}))
        write_whole(folder / METADATA, ("\n".join(lines) + "\n").encode())
        folders.append(folder)
    return folders
