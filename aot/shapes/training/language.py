"""Stage 2: train projector and language model to answer, with the tower frozen.

This small model learns slowly from answers alone. Auxiliary losses therefore supervise intermediate
steps: the attributes that a visual token shows, attention between tokens of the same thing, motion,
attention from a word to the tokens of the thing that it names, and the attributes predicted at this
word. The heads of the auxiliary losses are discarded afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from aot.compression.ops.grid import pool
from aot.shapes.training.choice import choose_tokens, keep_tokens
from aot.shapes.training.frames import LabeledVideo, labeled_video
from aot.shapes.training.labels import (
    GROUPS,
    IGNORE,
    POOL,
    SIDE_CELLS,
    end_cells,
    is_first,
    same_thing,
    token_labels,
    words_of,
)
from aot.shapes.training.network import GRID, WIDTH, vocabulary
from aot.shapes.training.packing import Branch, Packed, pack
from aot.shapes.training.reading import PROMPTS, accuracy_by_family, answer_loss, read_packed, some_branches
from aot.shapes.training.tower import normalize
from aot.shapes.world import BEATS, MOTIONS

__all__ = ["LanguageLesson"]

# Supervised heads. A visual token attends to the previous token, which reveals frame starts.
# A token of a thing attends to the thing's tokens: in earlier frames, its first frame, this frame.
_BEFORE_LAYER, _BEFORE_HEAD = 0, slice(0, 1)
_EARLIER_LAYER, _EARLIER_HEADS = 1, slice(0, 2)
_TRACK_LAYER, _FIRST_HEAD, _NOW_HEAD = 2, slice(0, 1), slice(1, 2)
_LOOK_LAYER, _LOOK_HEADS = 3, slice(0, 2)  # a word that names a thing attends to the thing's tokens
_READ_LAYER, _READ_HEADS = 4, slice(2, 4)  # the prompt's last token attends to that word
# Hidden states after this number of blocks predict frame starts, or the other events.
_OPENS_LAYER, _EVENTS_LAYER = 1, 3
_STEPS_PER_BATCH = 2


class LanguageLesson(nn.Module):
    """Compute the loss of one batch of videos with packed questions."""

    def __init__(self, network: Any, seed: int, steps: int, videos: int = 16, frames: int = 8) -> None:
        super().__init__()
        self.network, self.seed, self.steps, self.videos, self.frames = network, seed, steps, videos, frames
        network.model.vision_tower.requires_grad_(False)
        self.index = {token: number for number, token in enumerate(vocabulary())}
        self.groups = [torch.tensor([self.index[name] for name in names]) for names in GROUPS]
        self.events = nn.ModuleList(nn.Linear(WIDTH, size) for size in (len(MOTIONS), 2, 2, 2, 2))
        self.opens, self.beat = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, BEATS)
        self.places = nn.ModuleList(nn.Linear(WIDTH, SIDE_CELLS) for _ in range(4))
        self.cells = nn.ModuleList(nn.Linear(WIDTH, SIDE_CELLS) for _ in range(2))
        self.weights: dict[int, Tensor] = {}
        AttentionInterface.register("shapes_training", self._attention)
        AttentionMaskInterface.register("shapes_training", eager_mask)
        network.model.language_model.config._attn_implementation = "shapes_training"
        self._batch: tuple[int, list[LabeledVideo], Tensor] | None = None

    def _attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        scores = (query * scaling) @ key.mT
        weights = scores.add_(mask).softmax(-1)
        if module.layer_idx in (_BEFORE_LAYER, _EARLIER_LAYER, _TRACK_LAYER, _LOOK_LAYER, _READ_LAYER):
            self.weights[module.layer_idx] = weights
        return (weights @ value).transpose(1, 2), None

    def forward(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of `step`; for the log, its terms and accuracy by question family."""
        # 1. Visual tokens, compressed at random.
        rng = np.random.default_rng([self.seed, step, 19])
        videos, hidden = self._videos(step // _STEPS_PER_BATCH)
        projected = self.network.model.multi_modal_projector(hidden)
        pooled = pool(projected, (GRID, GRID), POOL).reshape(len(videos), -1, WIDTH)
        labels = token_labels(videos)
        full_share = 0.0 if step < 0.3 * self.steps else 0.2
        choice = choose_tokens(labels["thing"] >= 0, rng, full_share)
        visual = keep_tokens(pooled, choice)
        kept = {name: values.gather(1, choice.kept) for name, values in labels.items()}
        # 2. Prompt, visual tokens and packed questions through the language model.
        prompt = torch.tensor([self.index[word] for word in PROMPTS[rng.random() < 0.2].split()])
        first = len(prompt)
        prefix = first + visual.shape[1] + 1
        packed = pack(self._branches(videos, kept["thing"], rng), prefix)
        states = read_packed(self.network, prompt, visual, packed)
        # 3. The loss of the answers, and the auxiliary losses with their weights.
        losses = {
            "answer": answer_loss(self.network, states[-1][:, prefix:], packed),
            "show": 0.3 * self._word_loss(visual, [kept["color"], kept["shape"], kept["size"]]),
            "cell": 0.3 * self._cell_loss(visual, choice.kept % SIDE_CELLS**2),
            "track": self._track_loss(kept["thing"], kept["beat"], first),
            "time": self._time_loss([state[:, first : prefix - 1] for state in states], kept["beat"]),
            "events": self._events_loss(states[_EVENTS_LAYER][:, first : prefix - 1], kept),
            **self._reading_losses(states[_LOOK_LAYER + 1], videos, kept["thing"], packed, first, prefix),
        }
        facts = {name: loss.item() for name, loss in losses.items()}
        facts |= accuracy_by_family(self.network, states[-1][:, prefix:], packed)
        return torch.stack(list(losses.values())).sum(), facts

    def _videos(self, number: int) -> tuple[list[LabeledVideo], Tensor]:
        """Return batch `number` of videos and the frozen tower's output [B * F, N, D_v].

        The batch is cached, because consecutive steps share it.
        """
        if self._batch is None or self._batch[0] != number:
            first = (self.seed + 1) * 20_000_000 + number * self.videos
            videos = [labeled_video(first + k, self.frames, GRID) for k in range(self.videos)]
            pixels = torch.from_numpy(np.concatenate([video.pixels for video in videos]))
            with torch.no_grad():
                states = self.network.model.vision_tower(normalize(pixels), output_hidden_states=True).hidden_states
            self._batch = (number, videos, states[-1])
        return self._batch[1:]

    def _branches(self, videos: list[LabeledVideo], thing: Tensor, rng: np.random.Generator) -> list[list[Branch]]:
        """Return as many questions about each video as fit, if the kept tokens can answer them.

        `thing` [B, K] has the index of the thing that each kept token shows.
        """
        groups = []
        for video, things in zip(videos, thing, strict=True):
            present = set(things.tolist())
            seen = [k in present for k in range(len(video.scene.things))]
            groups.append(some_branches(video.scene, rng, seen, self.index))
        return groups

    def _word_loss(self, states: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss of predicting one word per group of `GROUPS` with the word embeddings."""
        normal = self.network.model.language_model.norm(states)
        words = self.network.get_input_embeddings().weight
        losses = []
        for group, target in zip(self.groups, targets):  # noqa: B905
            wanted = target != IGNORE
            if wanted.any():
                losses.append(F.cross_entropy(normal[wanted] @ words[group].T, target[wanted]))
        return torch.stack(losses).mean()

    def _cell_loss(self, visual: Tensor, cell: Tensor) -> Tensor:
        """Return the loss of predicting the row and column of each visual token in its frame.

        Without this loss, the projector discards the position.
        """
        normal = F.rms_norm(visual, (WIDTH,))
        targets = (cell // SIDE_CELLS, cell % SIDE_CELLS)
        losses = [F.cross_entropy(head(normal).mT, target) for head, target in zip(self.cells, targets, strict=True)]
        return torch.stack(losses).mean()

    def _track_loss(self, thing: Tensor, beat: Tensor, first: int) -> Tensor:
        """Return the loss of attention between visual tokens.

        A token should attend to the previous token. A token of a thing should attend to tokens of
        the same thing in earlier frames, in the thing's first frame, and in the current frame.
        """
        stop = first + thing.shape[1]
        same = same_thing(thing)
        beats = beat[:, None, :].expand_as(same)
        opening = beats.masked_fill(~same, BEATS).amin(-1, keepdim=True)
        before = torch.eye(thing.shape[1], dtype=torch.bool).roll(1, 0).tril(-1)[None]
        wanted = (
            (_BEFORE_LAYER, _BEFORE_HEAD, before.expand_as(same)),
            (_EARLIER_LAYER, _EARLIER_HEADS, same & (beats < beat[:, :, None])),
            (_TRACK_LAYER, _FIRST_HEAD, same & (beats == opening)),
            (_TRACK_LAYER, _NOW_HEAD, same & (beats == beat[:, :, None])),
        )
        losses = []
        for layer, heads, target in wanted:
            looks = self.weights[layer][:, heads, first:stop, first:stop]
            mass = (looks * target[:, None]).sum(-1).transpose(1, 2)[target.any(-1)]
            losses.append(-(mass + 1e-4).log().mean())
        return 0.1 * torch.stack(losses).sum()

    def _time_loss(self, states: list[Tensor], beat: Tensor) -> Tensor:
        """Return the loss of predicting each token's beat, and whether the token starts a frame.

        Without this loss, the model does not learn which things are gone at the end.
        """
        opens = F.pad(beat.diff(dim=1) > 0, (1, 0), value=True).long()
        opening = F.cross_entropy(self.opens(states[_OPENS_LAYER]).mT, opens)
        return 0.3 * opening + 0.3 * F.cross_entropy(self.beat(states[_EVENTS_LAYER]).mT, beat)

    def _events_loss(self, states: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """Return the loss of predicting motion and events of the thing that each token shows."""
        thing = kept["thing"]
        known = kept | {"first": is_first(thing), "leads": is_first(thing, kept["beat"])}
        losses = []
        for head, name in zip(self.events, ("motion", "late", "turned", "first", "leads"), strict=True):
            wanted = known[name] != IGNORE
            if wanted.any():
                losses.append(F.cross_entropy(head(states[wanted]), known[name][wanted]))
        return torch.stack(losses).mean()

    def _place_loss(self, states: Tensor, places: list[list[int]]) -> Tensor:
        """Return the loss of predicting the cells where a thing appears and is last visible.

        `states` belong to the words that name the things; `places` are results of `end_cells`.
        """
        targets = torch.tensor(places).unbind(-1)
        losses = [F.cross_entropy(head(states), target) for head, target in zip(self.places, targets, strict=True)]
        return torch.stack(losses).mean()

    def _reading_losses(
        self, states: Tensor, videos: list[LabeledVideo], thing: Tensor, packed: Packed, first: int, prefix: int
    ) -> dict[str, Tensor]:
        """Return the losses at words that name a thing.

        Such a word should attend to the tokens of the thing and predict the thing's attributes and
        cells. The last token of the prompt should attend to the word.
        """
        video, row, number = (torch.tensor(column) for column in zip(*packed.pointers, strict=True))
        looks = self.weights[_LOOK_LAYER][video, _LOOK_HEADS, prefix + row, first : first + thing.shape[1]]
        on_thing = (looks * (thing[video] == number[:, None])[:, None]).sum(-1)
        targets = [torch.tensor(column) for column in zip(*[words_of(videos[v].scene.things[n], videos[v])
                   for v, n in zip(video.tolist(), number.tolist(), strict=True)], strict=True)]  # fmt: skip
        places = [end_cells(videos[v].scene.things[n]) for v, n in zip(video.tolist(), number.tolist(), strict=True)]
        reader, last, read = (torch.tensor(column) for column in zip(*packed.readers, strict=True))
        reads = self.weights[_READ_LAYER][reader, _READ_HEADS, prefix + last, prefix + read]
        return {
            "look": -0.2 * (on_thing + 1e-4).log().mean(),
            "know": self._word_loss(states[video, prefix + row], targets),
            "place": 0.6 * self._place_loss(states[video, prefix + row], places),
            "read": -0.1 * (reads + 1e-4).log().mean(),
        }
