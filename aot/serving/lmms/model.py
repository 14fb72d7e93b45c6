"""Define the class that lmms-eval loads; this module cannot be imported without lmms-eval."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from loguru import logger
from tqdm import tqdm

from aot.errors import ConfigError, UnsupportedError
from aot.models import load_model
from aot.pipeline.run import Pipeline
from aot.serving.lmms.answering import Answered, answer_all, check_videos
from aot.serving.lmms.questions import Asked, read_generation, read_messages
from aot.serving.lmms.settings import Rank, placed, read_arguments

__all__ = ["AOTModel"]


class AOTModel(lmms):  # type: ignore[misc]
    """Answer the questions of tasks about videos with compressed visual tokens.

    Args:
        batch_size: 1 or "auto"; questions about one video share its encoding in any case.
        max_batch_size: ignored.
        **arguments: the settings; see `read_arguments`.

    Raises:
        ConfigError, ModelError: See `aot.errors`.
    """

    is_simple = False

    def __init__(self, batch_size: int | str = 1, max_batch_size: int | None = None, **arguments: object) -> None:
        super().__init__()
        if str(batch_size) not in ("1", "auto"):
            raise ConfigError(f"batch_size is {batch_size}, but aot answers one question at a time; leave it out")
        rank = Rank.of_process()
        self._rank, self._world_size = rank.number, rank.count
        config = placed(read_arguments(arguments), rank)
        self._pipeline = Pipeline(load_model(config.model), config)
        self._device = self._pipeline.model.placement["device"]
        logger.info(f"aot: {json.dumps({**config.to_dict(), 'runs_on': self._pipeline.model.placement}, default=str)}")

    @property
    def device(self) -> Any:
        """Return the device of the tensors that the harness exchanges between processes."""
        return self.accelerator.device if hasattr(self, "accelerator") else self._device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answer to each request, with its numbers of tokens.

        Raises:
            AOTError: If a question is not about one video, a setting is not supported, or a video
                cannot be read. No question is answered without its video.
        """
        try:
            asked = [self._asked(*request.args) for request in requests]
            answers = self._answers(asked)
        except Exception as error:
            if self.world_size == 1:
                raise
            # The harness would exit with 0, and the other processes would wait for this one.
            raise SystemExit(f"aot, process {self.rank} of {self.world_size}: {error}") from error
        return [_result(answers[index]) for index in range(len(asked))]

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        """Refuse tasks that compare the likelihoods of given answers.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "aot generates answers and computes no likelihoods; choose a task of type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        """Refuse tasks whose next question depends on the last answer.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("aot answers single questions of lmms-eval; choose a task of type generate_until")

    def clean(self) -> None:
        """Let go of the model, so that a judge can use its memory."""
        del self._pipeline
        super().clean()

    def _asked(
        self,
        context: str,
        messages_of: Callable[[Any], Any],
        generation: Mapping[str, Any],
        document: int,
        task: str,
        split: str,
    ) -> Asked:
        """Return the question of one request of the harness."""
        chat = ChatMessages(messages=messages_of(self.task_dict[task][split][document]))
        try:
            options, stops = read_generation(generation, self._pipeline.config.generation)
            return read_messages(chat.model_dump()["messages"], options, stops)
        except ConfigError as error:
            raise ConfigError(f"{task}, document {document}: {error}") from None

    def _answers(self, asked: Sequence[Asked]) -> dict[int, Answered]:
        """Answer all questions; return the answers by the index of the question."""
        check_videos(asked)
        answers: dict[int, Answered] = {}
        start_s = time.perf_counter()
        with tqdm(total=len(asked), desc="aot", disable=self.rank != 0) as bar:
            for answered in answer_all(self._pipeline, asked):
                answers[answered.index] = answered
                bar.update()
        self._log(list(answers.values()), time.perf_counter() - start_s)
        return answers

    def _log(self, answers: Sequence[Answered], seconds: float) -> None:
        """Put speed and numbers of tokens into the harness's results, and notices into its log."""
        for notice in dict.fromkeys(text for each in answers for text in (*each.report.notices, *each.reply.notices)):
            logger.warning(f"aot: {notice}")
        if answers:
            output_tokens = sum(each.reply.output_tokens for each in answers)
            means = {
                "visual_tokens": fmean(each.report.visual_tokens for each in answers),
                "kept_tokens": fmean(each.report.kept_tokens for each in answers),
                "prompt_tokens": fmean(each.reply.prompt_tokens for each in answers),
            }
            log_metrics(seconds, output_tokens, output_tokens / seconds, means)


def _result(answered: Answered) -> Any:
    counts = TokenCounts(input_tokens=answered.reply.prompt_tokens, output_tokens=answered.reply.output_tokens)
    return GenerationResult(text=answered.text, token_counts=counts)
