"""What a video's tokens are made of, over all its segments, and what became of every pooled token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from aot.reports.provenance import Fate, fates, joined_origins, origin_of
from aot.types import Clip, CompressedTokens, Provenance, Role


def kept(
    grid: tuple[int, int],
    frames: int,
    places: Sequence[int],
    *,
    roles: Sequence[Role] | None = None,
    mass: Sequence[float] | None = None,
    provenance: Callable[[], Provenance] | None = None,
) -> CompressedTokens:
    """Tokens at these places, in this order; kept ones of mass 1 unless told otherwise."""
    place, (rows, cols) = torch.tensor(places), grid
    return CompressedTokens(
        features=torch.zeros(len(places), 2),
        frame=(place // (rows * cols)).int(),
        row=(place % (rows * cols) // cols).int(),
        col=(place % cols).int(),
        role=torch.tensor(roles or [Role.KEPT] * len(places), dtype=torch.uint8),
        mass=torch.tensor(mass or [1.0] * len(places)),
        grid=grid,
        timestamps_s=tuple(map(float, range(frames))),
        clips=Clip.runs(frames, 1),
        provenance=provenance,
    )


def made_of(
    *shares: tuple[int, int, float], anchors: list[list[bool]] | None = None, whole: list[list[float]] | None = None
) -> Provenance:
    token, place, share = zip(*shares, strict=True)
    return Provenance(
        torch.tensor(token),
        torch.tensor(place),
        torch.tensor(share),
        None if anchors is None else torch.tensor(anchors),
        None if whole is None else torch.tensor(whole),
    )


def as_list(origin: Provenance) -> list[tuple[int, int, float]]:
    return list(zip(origin.token.tolist(), origin.place.tolist(), origin.share.tolist(), strict=True))


def test_tokens_of_which_nothing_is_said_are_only_themselves() -> None:
    assert as_list(origin_of(kept((2, 3), 2, [7, 0, 11]))) == [(0, 7, 1.0), (1, 0, 1.0), (2, 11, 1.0)]


def test_what_is_said_is_asked_for_once_and_in_single_precision() -> None:
    asked = []

    def provenance() -> Provenance:
        asked.append(True)
        said = made_of((0, 1, 0.75), (0, 2, 0.25), anchors=[[True, False, True]])
        return Provenance(said.token, said.place, said.share.double(), said.global_anchors)

    tokens = kept((1, 3), 1, [1], provenance=provenance)
    assert not asked
    origin = origin_of(tokens)
    assert asked == [True]
    assert as_list(origin) == [(0, 1, 0.75), (0, 2, 0.25)]
    assert origin.share.dtype == torch.float32
    assert origin.global_anchors is not None and origin.global_anchors.tolist() == [[True, False, True]]


def test_segments_are_numbered_through() -> None:
    """Two frames of 2 x 3 pooled tokens and three tokens kept, then one frame."""
    first, second = kept((2, 3), 2, [7, 0, 11]), kept((2, 3), 1, [4, 2])
    of_second = made_of((0, 4, 0.5), (0, 5, 0.5), (1, 2, 1.0))
    joined = joined_origins([origin_of(first), of_second], [first, second])
    assert as_list(joined) == [
        (0, 7, 1.0), (1, 0, 1.0), (2, 11, 1.0), (3, 16, 0.5), (3, 17, 0.5), (4, 14, 1.0),
    ]  # fmt: skip
    assert joined.global_anchors is None


def test_anchors_of_segments_follow_each_other() -> None:
    first, second = kept((1, 2), 2, [0, 3]), kept((1, 2), 1, [1])
    origins = [
        made_of((0, 0, 1.0), (1, 3, 1.0), anchors=[[True, False], [False, False]]),
        made_of((0, 1, 1.0), anchors=[[False, True]]),
    ]
    joined = joined_origins(origins, [first, second])
    assert joined.global_anchors is not None
    assert joined.global_anchors.tolist() == [[True, False], [False, False], [False, True]]
    assert as_list(joined) == [(0, 0, 1.0), (1, 3, 1.0), (2, 5, 1.0)]


def test_one_segment_is_itself() -> None:
    tokens = kept((2, 3), 2, [7, 0])
    assert as_list(joined_origins([origin_of(tokens)], [tokens])) == as_list(origin_of(tokens))


def test_what_became_of_tokens_that_were_merged() -> None:
    """The second token stands for four, the third for two; what both hold of place 4 adds up to a half."""
    tokens = kept((2, 4), 1, [0, 1, 7], roles=[Role.KEPT, Role.MERGED, Role.MERGED], mass=[1.0, 4.0, 2.0])
    origin = made_of(
        (0, 0, 1.0),
        (1, 1, 0.5), (1, 2, 0.25), (1, 3, 0.125), (1, 4, 0.0625), (1, 5, 0.0625),
        (2, 7, 0.875), (2, 4, 0.125),
    )  # fmt: skip
    found = fates(tokens, origin)
    assert (found.dtype, found.shape) == (torch.uint8, (1, 8))
    assert found[0].tolist() == [
        Fate.KEPT, Fate.GATHERED, Fate.MERGED, Fate.MERGED, Fate.MERGED, Fate.DISCARDED, Fate.DISCARDED, Fate.GATHERED,
    ]  # fmt: skip


def test_what_became_of_anchors_and_of_what_repeats_them() -> None:
    """A keyframe said twice, and a later frame with one token that changed and one that did not."""
    roles = [Role.KEYFRAME, Role.KEYFRAME, Role.DISTINCT, Role.MERGED, Role.MERGED]
    tokens = kept((1, 3), 2, [0, 1, 3, 0, 1], roles=roles, mass=[1.0, 1.0, 1.0, 2.0, 1.0])
    origin = made_of(
        (0, 0, 1.0), (1, 1, 1.0), (2, 3, 1.0), (3, 0, 0.5), (3, 4, 0.5), (4, 1, 1.0),
        anchors=[[True, False, True], [True, False, False]],
    )  # fmt: skip
    assert fates(tokens, origin).tolist() == [
        [Fate.GLOBAL_ANCHOR, Fate.LOCAL_ANCHOR, Fate.DISCARDED],
        [Fate.DISTINCT, Fate.MERGED, Fate.DISCARDED],
    ]


def test_a_token_kept_as_it_is_and_in_another_at_its_place_has_gathered() -> None:
    tokens = kept((1, 2), 1, [0, 0], roles=[Role.MERGED, Role.KEPT], mass=[2.0, 1.0])
    origin = made_of((0, 0, 0.5), (0, 1, 0.5), (1, 0, 1.0))
    assert fates(tokens, origin).tolist() == [[Fate.GATHERED, Fate.MERGED]]


def test_a_token_of_few_patches_is_merged_where_half_of_those_are() -> None:
    """Of 3 x 1 patches in two pooled tokens, the second has one: two thirds of a token's mass are all of it."""
    tokens = kept((2, 1), 1, [0], roles=[Role.MERGED], mass=[2.0])
    all_patches = made_of((0, 0, 2 / 3), (0, 1, 1 / 3), whole=[[4 / 3, 2 / 3]])
    assert fates(tokens, all_patches).tolist() == [[Fate.GATHERED, Fate.MERGED]]
    tokens = kept((1, 3), 1, [0], roles=[Role.MERGED], mass=[1.0])
    few = [(0, 0, 0.5), (0, 1, 0.25), (0, 2, 0.25)]
    assert fates(tokens, made_of(*few)).tolist() == [[Fate.GATHERED, Fate.DISCARDED, Fate.DISCARDED]]
    unequal = made_of(*few, whole=[[1.75, 0.5, 0.75]])
    assert fates(tokens, unequal).tolist() == [[Fate.GATHERED, Fate.MERGED, Fate.DISCARDED]]


def test_segments_some_of_which_are_made_of_patches() -> None:
    first, second = kept((1, 2), 1, [0]), kept((1, 2), 2, [3])
    of_patches = made_of((0, 0, 0.5), (0, 1, 0.5), whole=[[1.5, 0.5]])
    joined = joined_origins([of_patches, origin_of(second)], [first, second])
    assert joined.whole is not None
    assert joined.whole.tolist() == [[1.5, 0.5], [1.0, 1.0], [1.0, 1.0]]
