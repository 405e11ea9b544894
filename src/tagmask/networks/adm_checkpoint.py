"""Published ADM checkpoints (guided-diffusion and its many descendants) to our networks, key by key.

Dhariwal, Nichol 2021, https://arxiv.org/abs/2105.05233. The tensors come from `weights.read_tensors` or, since
published .pt files are pickles, from `foreign.read_published`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tagmask.errors import ConfigError, RunError
from tagmask.networks.classifier import Classifier, ClassifierSettings, ResidualBlock, SelfAttention
from tagmask.networks.denoiser import Denoiser, DenoiserSettings

__all__ = ["PUBLISHED", "adm_to_classifier", "adm_to_denoiser", "fill"]

PUBLISHED = {
    "imagenet-256": DenoiserSettings(
        size=256,
        channels=3,
        widths=(256, 256, 512, 512, 1024, 1024),
        blocks=2,
        attention=(3, 4, 5),  # where the side is 32, 16 and 8 px
        head_channels=64,
        learn_sigma=True,
        classes=0,
    ),
}
"""Networks that were published, by name; imagenet-256 is the unconditional one of 552,814,086 parameters."""

# Published name inside a block -> name inside diffusers' block, and inside the classifier's.
_RESIDUAL = {
    "in_layers.0": ("norm1", "norm1"),
    "in_layers.2": ("conv1", "conv1"),
    "emb_layers.1": ("time_emb_proj", "time"),
    "out_layers.0": ("norm2", "norm2"),
    "out_layers.3": ("conv2", "conv2"),
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
Names = Iterator[tuple[str, str]]


def adm_to_denoiser(
    state: dict[str, Tensor], settings: DenoiserSettings, *, new_attention_order: bool = False
) -> Denoiser:
    """Turn a published ADM U-Net into a denoiser.

    Parameters
    ----------
    state
        Tensors by their published names; left as they are.
    settings
        The constructor arguments it was trained with, in our words. `null_row = False`, since published
        tables have no such row; `classes = 0` where it has no table.
    new_attention_order
        The checkpoint's `use_new_attention_order`: q, k, v lie before the heads.

    Raises
    ------
    RunError
        If a key is unknown, missing, of another shape than the settings ask for, or not finite.
    ConfigError
        If the settings describe a network that ADM does not.
    """
    if settings.conditioning != "add":
        raise ConfigError(
            f'a published ADM network has conditioning = "add", not "{settings.conditioning}".',
            repair='Use conditioning = "add" and null_row = false.',
        )
    with torch.device("meta"):
        net = Denoiser(settings)
    heads = {name: m.heads for name, m in net.named_modules() if hasattr(m, "to_q")}
    source, ours = _Source(state), {}
    for published, name in _denoiser_names(net):
        if name not in heads:
            ours.update(source.layer(published, name))
            continue
        ours.update(source.layer(f"{published}.norm", f"{name}.group_norm"))
        ours.update(source.layer(f"{published}.proj_out", f"{name}.to_out.0"))
        order = 1 if new_attention_order else heads[name]
        for kind in ("weight", "bias"):
            parts = source.qkv(f"{published}.qkv.{kind}", order)
            ours.update({f"{name}.to_{q}.{kind}": part for q, part in zip("qkv", parts, strict=True)})
    if settings.classes:
        ours["table.weight"] = source.take("label_emb.weight")
    source.finish()
    fill(net, ours, where="published denoiser")
    return net


def adm_to_classifier(state: dict[str, Tensor], settings: ClassifierSettings) -> Classifier:
    """Turn a published ADM encoder classifier (FiLM, resblock_updown, pool "attention") into ours.

    Parameters
    ----------
    state
        Tensors by their published names; left as they are.
    settings
        The constructor arguments it was trained with, in our words.

    Raises
    ------
    RunError
        If a key is unknown, missing, of another shape than the settings ask for, or not finite.
    """
    with torch.device("meta"):
        net = Classifier(settings)
    heads = {f"{name}.qkv": m.heads for name, m in net.named_modules() if isinstance(m, SelfAttention)}
    source, ours = _Source(state), {}
    for published, name in _classifier_names(net):
        if name not in heads:
            ours.update(source.layer(published, name))
            continue
        for kind in ("weight", "bias"):
            ours[f"{name}.{kind}"] = torch.cat(source.qkv(f"{published}.{kind}", heads[name]))
    ours.update(source.layer("out.2.qkv_proj", "pool.qkv"))
    ours.update(source.layer("out.2.c_proj", "pool.out"))
    ours["pool.position"] = source.take("out.2.positional_embedding").T
    source.finish()
    fill(net, ours, where="published classifier")
    return net


def fill(net: nn.Module, tensors: dict[str, Tensor], *, where: object) -> None:
    """Give a network, built without memory on the device "meta", its weights as float32.

    Raises
    ------
    RunError
        If a tensor is unknown, missing, of another shape or kind, or not finite. The message names it.
    """
    expected = net.state_dict()
    for name in sorted(expected.keys() - tensors.keys()):
        raise RunError(f"the tensor {name} is missing.", where=where, repair=_OTHER_NETWORK)
    for name in sorted(tensors.keys() - expected.keys()):
        raise RunError(f"the tensor {name} belongs to no layer.", where=where, repair=_OTHER_NETWORK)
    ready = {}
    for name, wanted in expected.items():
        tensor, shape = tensors[name], tuple(wanted.shape)
        if tensor.shape != wanted.shape:
            raise RunError(
                f"the tensor {name} has shape {tuple(tensor.shape)}, but the settings ask for {shape}.",
                where=where,
                repair=_OTHER_NETWORK,
            )
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise RunError(
                f"the tensor {name} holds {tensor.dtype}, not {wanted.dtype}.",
                where=where,
                repair=_OTHER_NETWORK,
            )
        ready[name] = tensor.to(wanted.dtype, copy=True).contiguous()
        if not ready[name].isfinite().all():
            raise RunError(
                f"the tensor {name} holds values that are not finite.",
                where=where,
                repair="Use an earlier checkpoint, or train again.",
            )
    net.load_state_dict(ready, assign=True)


_OTHER_NETWORK = "The settings describe another network: use those that the weights came with."


class _Source:
    """Published tensors, each to be taken once."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state
        self.taken: set[str] = set()

    def take(self, name: str) -> Tensor:
        if name not in self.state:
            raise RunError(f"the published key {name} is missing.", repair=_OTHER_NETWORK)
        self.taken.add(name)
        return self.state[name]

    def layer(self, published: str, name: str) -> dict[str, Tensor]:
        """Weight and bias; convolutions over a row of tokens become matrices."""
        weight = self.take(f"{published}.weight")
        weight = weight.squeeze(-1) if weight.ndim == 3 else weight
        return {f"{name}.weight": weight, f"{name}.bias": self.take(f"{published}.bias")}

    def qkv(self, published: str, heads: int) -> list[Tensor]:
        """Query, key and value rows; the published rows are (heads, query | key | value, head width)."""
        rows = self.take(published)
        rows = rows.squeeze(-1) if rows.ndim == 3 else rows
        if len(rows) % (3 * heads):
            raise RunError(f"the published key {published} has {len(rows)} rows.", repair=_OTHER_NETWORK)
        parts = rows.reshape(heads, 3, -1, *rows.shape[1:]).unbind(1)
        return [part.reshape(-1, *rows.shape[1:]) for part in parts]

    def finish(self) -> None:
        for name in sorted(self.state.keys() - self.taken):
            raise RunError(f"the published key {name} belongs to no layer.", repair=_OTHER_NETWORK)


def _denoiser_names(net: Denoiser) -> Names:
    """Pair published names of layers, and of whole attention blocks, with ours."""
    yield "time_embed.0", "unet.time_embedding.linear_1"
    yield "time_embed.2", "unet.time_embedding.linear_2"
    yield "input_blocks.0.0", "unet.conv_in"
    yield "out.0", "unet.conv_norm_out"
    yield "out.2", "unet.conv_out"
    number = 1
    for level, block in enumerate(net.unet.down_blocks):
        name = f"unet.down_blocks.{level}"
        for j, resnet in enumerate(block.resnets):
            yield from _residual(f"input_blocks.{number}.0", f"{name}.resnets.{j}", resnet)
            if hasattr(block, "attentions"):
                yield f"input_blocks.{number}.1", f"{name}.attentions.{j}"
            number += 1
        for sampler in block.downsamplers or ():
            yield from _sampler(f"input_blocks.{number}.0", "op", f"{name}.downsamplers.0", sampler)
            number += 1
    for k, resnet in enumerate(net.unet.mid_block.resnets):
        yield from _residual(f"middle_block.{2 * k}", f"unet.mid_block.resnets.{k}", resnet)
    yield "middle_block.1", "unet.mid_block.attentions.0"
    number = 0
    for level, block in enumerate(net.unet.up_blocks):
        name = f"unet.up_blocks.{level}"
        for j, resnet in enumerate(block.resnets):
            yield from _residual(f"output_blocks.{number}.0", f"{name}.resnets.{j}", resnet)
            if hasattr(block, "attentions"):
                yield f"output_blocks.{number}.1", f"{name}.attentions.{j}"
            number += 1
        last = 2 if hasattr(block, "attentions") else 1
        for sampler in block.upsamplers or ():
            yield from _sampler(f"output_blocks.{number - 1}.{last}", "conv", f"{name}.upsamplers.0", sampler)


def _residual(published: str, name: str, resnet: nn.Module) -> Names:
    yield from ((f"{published}.{theirs}", f"{name}.{ours}") for theirs, (ours, _) in _RESIDUAL.items())
    if getattr(resnet, "conv_shortcut", None) is not None:
        yield f"{published}.skip_connection", f"{name}.conv_shortcut"


def _sampler(published: str, convolution: str, name: str, sampler: nn.Module) -> Names:
    """Pair the names of a change of resolution: a residual block, or one convolution."""
    if hasattr(sampler, "conv1"):
        yield from _residual(published, name, sampler)
    else:
        yield f"{published}.{convolution}", f"{name}.conv"


def _classifier_names(net: Classifier) -> Names:
    """Pair published names of layers with ours, all but the pooling's."""
    yield from (("time_embed.0", "time_mlp.0"), ("time_embed.2", "time_mlp.2"))
    yield from (("input_blocks.0.0", "conv_in"), ("out.0", "norm_out"))
    number, middle = 0, len(net.layers) - 3
    for k, layer in enumerate(net.layers):
        name, residual = f"layers.{k}", isinstance(layer, ResidualBlock)
        number += residual
        inside = f"input_blocks.{number}.{int(not residual)}"
        published = inside if k < middle else f"middle_block.{k - middle}"
        if not residual:
            yield from ((f"{published}.{theirs}", f"{name}.{ours}") for theirs, ours in _ATTENTION.items())
            continue
        yield from ((f"{published}.{theirs}", f"{name}.{ours}") for theirs, (_, ours) in _RESIDUAL.items())
        if isinstance(layer.skip, nn.Conv2d):
            yield f"{published}.skip_connection", f"{name}.skip"
