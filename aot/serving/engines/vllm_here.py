"""Run vLLM in this process, and batch the requests of all threads in it."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from aot.errors import AOTError, ConfigError, ModelError, first_line
from aot.serving.engines.base import EngineRequest, begun

__all__ = ["VllmHere", "check_vllm"]

# What is set in the environment unless the user has: no word on stdout, which is for results, and
# none to vLLM's makers; a process for the engine begins anew, as forks of a process with threads of
# OpenMP stop.
_ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_Arriving = SimpleQueue[list[int] | Exception | None]


def check_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        ConfigError: If it is not.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            '--engine vllm needs vLLM: pip install "aot[vllm]"; or name a server that runs with --engine-url'
        )


class VllmHere:
    """vLLM with an exported language model.

    One thread makes and drives the engine, which counts on that thread's number of OpenMP threads.
    Requests come to it through a queue, and all that are there are continued together.

    Args:
        folder: the exported language model.
        settings: vLLM's engine arguments.

    Raises:
        ConfigError: If vLLM does not know an argument.
        ModelError: If the engine does not start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        check_vllm()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._engine: Any = None
        self._inbox: SimpleQueue[tuple[str, EngineRequest | None]] = SimpleQueue()
        self._arriving: dict[str, _Arriving] = {}
        self._numbers = itertools.count()
        self._closed = threading.Event()
        started: Future[None] = Future()
        self._driver = threading.Thread(
            target=self._drive, args=(folder, settings, started), name="aot-vllm", daemon=True
        )
        self._driver.start()
        started.result()
        atexit.register(self.close)

    def begin(self, request: EngineRequest) -> Generator[list[int], None, None]:
        """Hand a prompt over; see `Engine.begin`."""
        name, arriving = str(next(self._numbers)), _Arriving()
        self._arriving[name] = arriving
        self._inbox.put((name, request))
        return begun(self._answer(name, arriving))

    def _answer(self, name: str, arriving: _Arriving) -> Generator[list[int], None, None]:
        try:
            yield []
            while (ids := arriving.get()) is not None:
                if isinstance(ids, Exception):
                    raise ids
                yield ids
        finally:
            if self._arriving.pop(name, None):  # abandoned before its end
                self._inbox.put((name, None))

    def close(self) -> None:
        """End the engine."""
        atexit.unregister(self.close)
        self._closed.set()
        self._inbox.put(("", None))
        self._driver.join()

    def _drive(self, folder: Path, settings: Mapping[str, Any], started: Future[None]) -> None:
        """Start the engine; continue all requests token by token, until it is closed."""
        try:
            self._engine = _started(folder, settings)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while not self._closed.is_set():
                self._receive()
                if self._engine.has_unfinished_requests():
                    for output in self._engine.step():
                        self._deliver(output)
        except Exception as error:
            self._fail(AOTError(f"vLLM has stopped ({first_line(error)}); start again"))
        finally:
            self._engine.engine_core.shutdown()

    def _receive(self) -> None:
        """Give the engine what has come; wait if it has nothing to do."""
        waits = not self._engine.has_unfinished_requests()
        while True:
            try:
                name, request = self._inbox.get(block=waits)
            except Empty:
                return
            waits = False
            if request is None:
                self._engine.abort_request([name])
            else:
                self._add(name, request)

    def _add(self, name: str, request: EngineRequest) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_embeds": request.embeddings}
        if request.sampling.repetition_penalty != 1:  # it reads the prompt
            prompt |= {"prompt_token_ids": list(request.ids), "prompt_is_token_ids": [False] * len(request.ids)}
        kind = {"output_kind": RequestOutputKind.DELTA, "detokenize": False}
        try:
            self._engine.add_request(name, prompt, SamplingParams(**asdict(request.sampling), **kind))
        except Exception as error:  # of this request alone; a broken engine fails at its next step
            self._put(name, ConfigError(f"vLLM refuses the prompt: {first_line(error)}"))

    def _deliver(self, output: Any) -> None:
        if ids := list(output.outputs[0].token_ids):
            self._put(output.request_id, ids)
        if output.finished and (arriving := self._arriving.pop(output.request_id, None)):
            arriving.put(None)

    def _put(self, name: str, found: list[int] | Exception) -> None:
        if arriving := self._arriving.get(name):
            arriving.put(found)

    def _fail(self, error: AOTError) -> None:
        """Give all requests `error`, also later ones."""
        for name in list(self._arriving):
            self._put(name, error)
        while not self._closed.is_set():
            self._put(self._inbox.get()[0], error)


def _started(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return a vLLM engine.

    Raises:
        ConfigError, ModelError: See `VllmHere`.
    """
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    own = {"enable_prompt_embeds": True, "skip_tokenizer_init": True, "disable_log_stats": True}
    try:
        arguments = EngineArgs(model=str(folder), use_tqdm_on_load=False, **own, **settings)
    except TypeError as error:
        raise ConfigError(f"--engine-set: {first_line(error)}; see the engine arguments of vLLM") from error
    try:
        return LLMEngine.from_engine_args(arguments)
    except Exception as error:
        raise ModelError(
            f"vLLM does not start with {folder} ({first_line(error)}); VLLM_LOGGING_LEVEL=INFO shows more"
        ) from error
