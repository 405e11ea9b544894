"""What every rival of TextDiff's table keeps to, whichever paper it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tagmask.config import build, plain
from tagmask.errors import ConfigError
from tagmask.networks.gloria import Gloria, GloriaSettings
from tagmask.networks.lvit import LViT, LViTSettings
from tagmask.networks.swinunet import SwinUNet, SwinUNetSettings
from tagmask.networks.transunet import SMALL, TransUNet, TransUNetSettings
from tagmask.types import TextTokens


@dataclass(frozen=True)
class Rival:
    module: Callable[[Any], nn.Module]
    tiny: Any
    count: int  # of the published network, on RGB
    first: int  # weights of its first convolution for one channel of the image

    def __call__(self, **changes: Any) -> nn.Module:
        return self.module(replace(self.tiny, **changes))


RIVALS = {
    "transunet": Rival(
        TransUNet,
        TransUNetSettings(
            size=32,
            channels=1,
            stem=4,
            blocks=(1, 1, 2),
            width=8,
            layers=2,
            heads=2,
            hidden=8,
            decoder=(8, 8, 4, 4),
        ),
        count=105_276_066,
        first=64 * 49,
    ),
    "swinunet": Rival(
        SwinUNet,
        SwinUNetSettings(size=32, channels=1, width=8, depths=(2, 2), heads=(2, 4), window=4),
        count=27_168_228,
        first=96 * 16,
    ),
    "gloria": Rival(
        Gloria,
        GloriaSettings(size=32, channels=1, width=4, blocks=(1, 1, 2, 1), decoder=(8, 8, 4, 4, 4)),
        count=32_521_105,
        first=64 * 49,
    ),
    "lvit": Rival(
        LViT,
        LViTSettings(size=32, channels=1, width=4, heads=2, text_width=6, tokens=5),
        count=29_908_033,
        first=64 * 9,
    ),
}


def pictures(channels: int = 1, count: int = 3) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def sentences(count: int = 3) -> TextTokens:
    embedding = torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(4))
    return TextTokens(embedding, torch.ones(count, 4, dtype=torch.bool))


def counted(module: Callable[[Any], nn.Module], settings: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in module(settings).parameters())


@pytest.fixture(params=RIVALS)
def rival(request: pytest.FixtureRequest) -> Rival:
    return RIVALS[request.param]


def test_has_the_published_number_of_parameters(rival: Rival) -> None:
    published = type(rival.tiny)()
    assert (published.size, published.channels) == (224, 3)
    assert counted(rival.module, published) == rival.count
    grey = replace(published, channels=1)
    assert counted(rival.module, grey) == rival.count - 2 * rival.first


def test_the_small_transunet_is_a_hundredth() -> None:
    assert counted(TransUNet, SMALL) == 946_898


@pytest.mark.parametrize("channels", [1, 3])
def test_gives_a_logit_for_every_pixel(rival: Rival, channels: int) -> None:
    net = rival(channels=channels)
    logits = net(pictures(channels), sentences())
    assert logits.shape == (3, 1, 32, 32)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all() and logits.std() > 0
    assert (logits < 0).any() or (logits > 1).any(), "these are not probabilities"


def test_judges_pictures_alone_and_the_same_every_time(rival: Rival) -> None:
    net, x, text = rival().eval(), pictures(), sentences()
    before = x.clone()
    with torch.no_grad():
        together = net(x, text)
        alone = torch.cat([net(x[i : i + 1], text[i : i + 1]) for i in range(3)])
        assert torch.equal(net(x, text), together)
    assert torch.allclose(alone, together, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3, "the pictures do not matter"
    assert torch.equal(x, before)


def test_gradients_reach_every_parameter(rival: Rival) -> None:
    net = rival().eval()  # so that batch norms do not cancel the biases before them
    net(pictures(), sentences()).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", ["transunet", "swinunet", "gloria"])
def test_who_takes_no_text_ignores_it(name: str) -> None:
    net, x = RIVALS[name]().eval(), pictures()
    with torch.no_grad():
        assert torch.equal(net(x, sentences()), net(x))


@pytest.mark.parametrize("name", ["transunet", "swinunet"])
def test_two_outputs_become_one_logit_of_the_same_probability(name: str) -> None:
    net, both = RIVALS[name]().eval(), []
    net.get_submodule("out").register_forward_hook(lambda *call: both.append(call[2]))
    with torch.no_grad():
        p = net(pictures()).sigmoid()
    assert torch.allclose(p, both[0].softmax(dim=1)[:, 1:], atol=1e-6)


def test_bf16_keeps_the_dtype(rival: Rival) -> None:
    net = rival().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = net(pictures(), sentences())
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert (logits - net(pictures(), sentences())).abs().max() < 0.2


def test_channels_last_gives_the_same(rival: Rival) -> None:
    net = rival().eval()
    with torch.no_grad():
        plainly = net(pictures(), sentences())
        last = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        moved = last(pictures().contiguous(memory_format=torch.channels_last), sentences())
    assert torch.allclose(plainly, moved, atol=1e-5)


def test_its_weights_are_all_of_it(rival: Rival) -> None:
    """A network built without memory works as soon as it has been given its weights, as loading from a file does."""
    net = rival().eval()
    with torch.device("meta"):
        other = rival().eval()
    other.load_state_dict(net.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(other(pictures(), sentences()), net(pictures(), sentences()))


def test_settings_survive_a_file(rival: Rival) -> None:
    assert build(type(rival.tiny), plain(rival.tiny)) == rival.tiny
    assert build(type(rival.tiny), {}) == type(rival.tiny)()


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 2, 32, 32), (1, 32, 32)])
def test_refuses_other_images(rival: Rival, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"takes images of shape \(B, 1, 32, 32\)") as caught:
        rival()(torch.zeros(shape), sentences(1))
    assert caught.value.repair


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("transunet", {"size": 100}, "size = 100, but it must be a multiple of 16.*Use size = 112"),
        ("transunet", {"size": 16}, "size = 16, .* at least 32. Use size = 32"),
        ("transunet", {"stem": 5}, "stem = 5, but it must be even"),
        ("transunet", {"blocks": (1, 0, 1)}, r"blocks = \[1, 0, 1\]"),
        ("transunet", {"heads": 3}, "heads = 3 do not divide width = 8"),
        ("transunet", {"layers": 0}, "layers = 0"),
        ("transunet", {"decoder": (8, 8, 8, 0)}, r"decoder = \[8, 8, 8, 0\]"),
        ("transunet", {"dropout": 1.0}, "dropout = 1.0"),
        ("swinunet", {"size": 0}, "size = 0"),
        ("swinunet", {"width": 7}, "width = 7, but it must be even"),
        ("swinunet", {"depths": (2,), "heads": (2,)}, r"depths = \[2\]"),
        ("swinunet", {"heads": (2, 3)}, r"heads = \[2, 3\], but each of the 2 stages"),
        ("swinunet", {"heads": (2,)}, r"heads = \[2\]"),
        ("swinunet", {"window": 1}, "window = 1"),
        ("swinunet", {"drop_path": -0.1}, "drop_path = -0.1"),
        ("gloria", {"size": 48}, "size = 48 is not a multiple of 32. Use size = 64"),
        ("gloria", {"width": 0}, "width = 0"),
        ("gloria", {"blocks": (1, 1, 1)}, r"blocks = \[1, 1, 1\]"),
        ("gloria", {"decoder": (8, 8)}, r"decoder = \[8, 8\]"),
        ("lvit", {"size": 40}, "size = 40 is not a multiple of 16. Use size = 48"),
        ("lvit", {"heads": 3}, "heads = 3 do not divide width = 4"),
        ("lvit", {"tokens": 0}, "tokens = 0"),
        ("lvit", {"text_width": -1}, "text_width = -1"),
        ("lvit", {"dropout": 2.0}, "dropout = 2.0"),
        ("lvit", {"text": False, "null_text": True}, "null_text = True, but text = False"),
    ],
)
def test_refuses_settings_that_make_no_network(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.{message}") as caught:
        replace(RIVALS[name].tiny, **change)
    assert caught.value.repair


@pytest.mark.parametrize("name", RIVALS)
def test_refuses_no_channels(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.channels = 0, but it must be at least 1"):
        replace(RIVALS[name].tiny, channels=0)
