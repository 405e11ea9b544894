"""A denoiser's weights under the names they would have been published by."""

from __future__ import annotations

import torch
from torch import Tensor

from tagmask.networks.adm_checkpoint import _denoiser_names
from tagmask.networks.denoiser import Denoiser


def published_state(net: Denoiser) -> dict[str, Tensor]:
    """Undo `adm_to_denoiser`, for unconditional networks with legacy attention."""
    ours, state = net.state_dict(), {}
    heads = {name: module.heads for name, module in net.named_modules() if hasattr(module, "to_q")}
    for published, name in _denoiser_names(net):
        if name not in heads:
            state.update({f"{published}.{kind}": ours[f"{name}.{kind}"] for kind in ("weight", "bias")})
            continue
        for kind in ("weight", "bias"):
            rows = [ours[f"{name}.to_{q}.{kind}"].unflatten(0, (heads[name], -1)) for q in "qkv"]
            state[f"{published}.qkv.{kind}"] = torch.stack(rows, dim=1).flatten(0, 2)
            state[f"{published}.norm.{kind}"] = ours[f"{name}.group_norm.{kind}"]
            state[f"{published}.proj_out.{kind}"] = ours[f"{name}.to_out.0.{kind}"]
        for layer in ("qkv", "proj_out"):
            state[f"{published}.{layer}.weight"] = state[f"{published}.{layer}.weight"].unsqueeze(-1)
    return {name: tensor.detach().clone() for name, tensor in state.items()}
