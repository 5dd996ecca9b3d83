"""What ControlNets add to a UNet call: residuals for the rows that have one, zeros for the others."""

from collections import defaultdict

import torch
from torch import Tensor

from nigaoe.core.controlnets import ControlNet
from nigaoe.core.engine.batch import Batch
from nigaoe.core.unet_call import UNetCall


def with_controls(call: UNetCall, batch: Batch) -> UNetCall:
    """Add the residuals of all controls that apply now; each net is called once, for all rows that it controls."""
    if not any(row.generation.controls for row in batch.rows):
        return call
    members: dict[ControlNet, list[tuple[int, float, Tensor]]] = defaultdict(list)
    owner = batch.owner.tolist()
    for place, i in enumerate(owner):
        row = batch.rows[i]
        for control, image in zip(row.generation.controls, row.control_images, strict=True):
            if row.is_within(control.start, control.end) and control.scale:
                members[control.net].append((place, control.scale, image))
    if not members:
        return call
    added: list[Tensor] = []
    for net, parts in members.items():
        places = torch.tensor([place for place, _, _ in parts], device=call.sample.device)
        scales = torch.tensor([scale for _, scale, _ in parts], device=call.sample.device).view(-1, 1, 1, 1)
        residuals = _residuals(net, call, places, torch.stack([image for _, _, image in parts]))
        if not added:
            added = [residual.new_zeros(len(owner), *residual.shape[1:]) for residual in residuals]
        added = [
            total.index_add(0, places, residual * scales) for total, residual in zip(added, residuals, strict=True)
        ]
    return call._replace(down_residuals=tuple(added[:-1]), mid_residual=added[-1])


def _residuals(net: ControlNet, call: UNetCall, places: Tensor, images: Tensor) -> list[Tensor]:
    """Of some rows, float32: those of the skip connections, then that of the middle."""
    model = net.model
    added = None
    if call.pooled is not None and call.time_ids is not None:
        added = {"text_embeds": call.pooled[places].to(model.dtype), "time_ids": call.time_ids[places]}
    down, mid = model(
        call.sample[places, : model.config.in_channels].to(model.dtype),
        call.timesteps[places],
        encoder_hidden_states=call.text_states[places].to(model.dtype),
        controlnet_cond=images.to(model.dtype),
        added_cond_kwargs=added,
        return_dict=False,
    )
    return [residual.float() for residual in (*down, mid)]
