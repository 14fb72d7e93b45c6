"""Compare a compressed prompt with the full-token model, without knowing the right answer.

The full-token model is the reference. Its own greedy answer is read after the compressed prompt,
and the next-token distributions of both are compared at each of the answer's positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aot.errors import NumericsError

__all__ = ["CLASSES", "Fidelity", "Reference", "divergences", "fidelity"]

# The reference's most likely tokens that are kept apart at each position; all others are one class.
CLASSES = 256


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well the full-token model's answer is predicted after a compressed prompt.

    Attributes:
        divergence: Kullback-Leibler divergence D(reference || compressed) of the next-token
            distributions, in nats, mean over the answer's positions (its end token included). A
            lower bound, because the less likely tokens are one class (data processing inequality).
        agreement: share of the positions at which greedy decoding takes the same token.
        same_answer: whether the greedy answer is the same, token by token.
    """

    divergence: float
    agreement: float
    same_answer: bool


@dataclass(frozen=True, slots=True)
class Reference:
    """The full-token model's greedy answer of A tokens, and its predictions along this answer.

    Attributes:
        answer: the ids of the answer.
        choices: int64 [A], the tokens that greedy decoding takes.
        classes: int64 [A, k], the k most likely tokens.
        log_shares: float64 [A, k + 1], log-probabilities of these tokens and of all others as one.
    """

    answer: Sequence[int]
    choices: Tensor
    classes: Tensor
    log_shares: Tensor

    @classmethod
    def of(cls, answer: Sequence[int], logits: Tensor, choices: Tensor, classes: int = CLASSES) -> Reference:
        """Return the reference for an answer.

        Args:
            answer: the ids of the answer, A of them.
            logits: float32 [A, V], predictions along the answer.
            choices: int64 [A], the tokens that greedy decoding takes.
            classes: k, the number of tokens to keep apart; at most V are kept.
        """
        top = logits.topk(min(classes, logits.shape[-1])).indices
        return cls(answer, choices, top, _log_shares(logits, top))


def fidelity(reference: Reference, logits: Tensor, choices: Tensor) -> Fidelity:
    """Compare the predictions along the reference's answer; see `Reference.of` for the arguments.

    Raises:
        NumericsError: If the logits of either side contain NaN or infinite values.
    """
    divergence = float(divergences(reference, logits).mean())
    if not divergence < float("inf"):  # also NaN
        raise NumericsError("the language model's predictions are not finite; try --dtype bfloat16 or --dtype float32")
    same = choices == reference.choices
    return Fidelity(divergence, float(same.double().mean()), bool(same.all()))


def divergences(reference: Reference, logits: Tensor) -> Tensor:
    """Return D(reference || compressed) at each position, float64 [A], in nats."""
    log_p, log_q = reference.log_shares, _log_shares(logits, reference.classes)
    # A class without mass contributes nothing: there is no other token if k is the vocabulary.
    terms = torch.where(log_p == float("-inf"), 0.0, log_p.exp() * (log_p - log_q))
    return terms.sum(-1).clamp(min=0)  # rounding may give -1e-17


def _log_shares(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the log-probabilities [A, k + 1] of `classes` [A, k] and of all others as one."""
    others = logits.scatter(-1, classes, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, classes), others], -1).double().log_softmax(-1)
