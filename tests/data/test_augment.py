from __future__ import annotations

import pytest
import torch

from tagmask.data.augment import VARIANTS, AugmentSettings, augment, draw_variants, turned
from tagmask.errors import ConfigError
from tagmask.seeds import keyed


def pictures(count: int = 8) -> torch.Tensor:
    image = torch.full((count, 1, 32, 32), -1.0)
    image[:, :, 8:14, 18:26] = 0.5
    return image


ALL = AugmentSettings(flip=True, rotate=20, shift=0.1, zoom=0.1, gamma=0.3, contrast=0.2)


def test_nothing_changes_by_default() -> None:
    image, mask = augment(pictures(), AugmentSettings(), keyed(0))
    assert torch.equal(image, pictures()) and mask is None


def test_the_same_generator_gives_the_same_pictures_and_the_range_is_kept() -> None:
    first, _ = augment(pictures(), ALL, keyed(1))
    again, _ = augment(pictures(), ALL, keyed(1))
    other, _ = augment(pictures(), ALL, keyed(2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.min()) >= -1 and float(first.max()) <= 1
    assert not torch.equal(first[0], first[1])


def test_a_mask_moves_with_its_picture() -> None:
    image = pictures()
    moved, mask = augment(
        image, AugmentSettings(flip=True, rotate=25, shift=0.1), keyed(3), (image > 0).float()
    )
    assert mask is not None and set(mask.unique().tolist()) == {0.0, 1.0}
    inside = mask.bool()
    overlap = (inside & (moved > -0.25)).sum() / (inside | (moved > -0.25)).sum()
    assert float(overlap) > 0.85
    assert not torch.equal(mask, (image > 0).float())


def test_flips_are_whole_mirror_images() -> None:
    moved, _ = augment(pictures(64), AugmentSettings(flip=True), keyed(4))
    same = [torch.allclose(m, p, atol=1e-5) for m, p in zip(moved, pictures(64), strict=True)]
    mirrored = [torch.allclose(m.flip(-1), p, atol=1e-5) for m, p in zip(moved, pictures(64), strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 15 < sum(same) < 49


@pytest.mark.parametrize(
    "change",
    [{"rotate": 200}, {"shift": 1.0}, {"zoom": -0.1}, {"contrast": 2.0}, {"crop": -1}, {"colour": 1.0}],
)
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AugmentSettings(**change)  # type: ignore[arg-type]


# quarter turns and mirror images


def distinct(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture without symmetry, many times, with its mask."""
    image = pictures(1)
    image[:, :, 3:6, 4:7] = -0.5
    return image.repeat(count, 1, 1, 1), (image > 0).float().repeat(count, 1, 1, 1)


def test_the_eight_variants_are_eight_and_can_be_undone() -> None:
    image, _ = distinct(VARIANTS)
    all_of_them = turned(image, torch.arange(VARIANTS))
    assert len({one.numpy().tobytes() for one in all_of_them}) == 8
    assert torch.equal(all_of_them[0], image[0])
    assert torch.equal(all_of_them[1], torch.rot90(image[0], 1, (1, 2)))
    assert torch.equal(all_of_them[4], image[0].flip(-1))
    assert torch.equal(
        turned(all_of_them[4:], torch.tensor([4, 5, 6, 7])), image[4:]
    )  # a mirror undoes itself


@pytest.mark.parametrize(
    ("dihedral", "shares"),
    [
        ("even", [1 / 8] * 8),
        ("mirror", [0.5, 0, 0, 0, 0.5, 0, 0, 0]),
        ("published", [0.5, 0, 0, 0, 1 / 8, 1 / 8, 1 / 8, 1 / 8]),
    ],
)
def test_variants_are_drawn_as_often_as_they_should(dihedral: str, shares: list[float]) -> None:
    drawn = draw_variants(4000, AugmentSettings(dihedral=dihedral), keyed(5))  # type: ignore[arg-type]
    found = torch.bincount(drawn, minlength=8) / 4000
    assert torch.allclose(found, torch.tensor(shares), atol=0.03)
    assert ((found > 0) == (torch.tensor(shares) > 0)).all()


@pytest.mark.parametrize("dihedral", ["even", "mirror", "published"])
def test_a_mask_takes_the_quarter_turn_of_its_picture(dihedral: str) -> None:
    image, mask = distinct()
    settings = AugmentSettings(dihedral=dihedral)  # type: ignore[arg-type]
    moved, found = augment(image, settings, keyed(6), mask)
    assert found is not None and torch.equal(found, (moved > 0).float()) and not torch.equal(found, mask)
    variants = draw_variants(64, settings, keyed(6))
    assert torch.equal(moved, turned(image, variants))  # a cache of variants gives the very same pictures
    generator = keyed(6)
    given, _ = augment(image, settings, generator, variants=draw_variants(64, settings, generator))
    assert torch.equal(given, moved)
    assert settings.dihedral_alone and not AugmentSettings(dihedral="even", gamma=0.1).dihedral_alone


def test_published_turns_are_small_and_for_half_of_the_others() -> None:
    image, _ = distinct(200)
    settings = AugmentSettings(dihedral="published", rotate=20)
    variants = draw_variants(200, settings, keyed(7))
    moved, _ = augment(image, settings, keyed(7))
    rotated = [
        not torch.allclose(m, p, atol=1e-5) for m, p in zip(moved, turned(image, variants), strict=True)
    ]
    assert not any(r for r, v in zip(rotated, variants, strict=True) if v)
    assert 0.15 < sum(rotated) / 200 < 0.35


# crops and colour


def test_a_crop_is_a_part_of_the_picture_and_its_mask() -> None:
    image = torch.arange(32 * 32).reshape(1, 1, 32, 32).repeat(400, 1, 1, 1) / 512 - 1
    cut, mask = augment(image, AugmentSettings(crop=8), keyed(8), (image > 0).float())
    assert cut.shape == (400, 1, 8, 8) and mask is not None and torch.equal(mask, (cut > 0).float())
    corners = {(int(v) // 32, int(v) % 32) for v in ((cut[:, 0, 0, 0] + 1) * 512).round()}
    assert len(corners) > 200 and {place for corner in corners for place in corner} == set(range(25))
    assert torch.equal(cut[0, 0, 1], cut[0, 0, 0] + 32 / 512)
    whole, _ = augment(image, AugmentSettings(crop=32), keyed(8))
    assert torch.equal(whole, image)


def test_colour_scales_the_density_of_each_channel() -> None:
    image = torch.rand(40, 3, 4, 4, generator=keyed(9)) * 1.9 - 0.9
    found, _ = augment(image, AugmentSettings(colour=0.3), keyed(10))
    factor = ((found + 1) / 2).log() / ((image + 1) / 2).log()
    assert torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor), rtol=1e-3)
    assert 0.7 <= float(factor.min()) < 0.8 and 1.2 < float(factor.max()) <= 1.3
    assert float(factor[:, :, 0, 0].std(dim=1).min()) > 0  # each channel by itself
    white, _ = augment(torch.ones(2, 3, 4, 4), AugmentSettings(colour=0.3), keyed(10))
    assert torch.equal(white, torch.ones(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 0.1}, "1 channels"),
        ({"crop": 33}, "crop = 33"),
    ],
)
def test_what_does_not_fit_the_slices_is_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        augment(pictures(), AugmentSettings(**change), keyed(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{}, {"dihedral": "mirror", "flip": True}])
def test_a_text_follows_only_what_words_can_say(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="rewrite_text follows dihedral alone"):
        AugmentSettings(rewrite_text=True, **change)  # type: ignore[arg-type]
    AugmentSettings(rewrite_text=True, dihedral="even", rotate=5)
