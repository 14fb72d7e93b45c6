"""Distribute the jobs of a batch to workers on Ray Data: one per GPU, over machines."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot.config.schema import Config, build_config
from aot.errors import AOTError, ConfigError, first_line
from aot.serving.batch.jobs import Job
from aot.serving.batch.results import Row
from aot.serving.batch.worker import Outputs, VideoWorker
from aot.serving.engines.options import TRANSFORMERS, EngineOptions, open_engine

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Cluster", "check_ray", "reserved", "rows_on_ray"]

_JOBS_PER_TASK = 8  # so that a worker can decode ahead; what a killed run loses per worker
_LEAST_TASKS_PER_WORKER = 4  # so that workers end at about the same time
_OBJECTS_BYTES = 128 * 2**20  # rows are small; Ray's default is 30 % of the memory


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a batch runs.

    Attributes:
        workers: number of workers; None: one per GPU, or one if there is none.
        address: address of a Ray cluster; None starts one on this machine for the batch.
    """

    workers: int | None
    address: str | None


def check_ray(config: Config) -> None:
    """Check before anything is loaded that the batch can run on Ray.

    Raises:
        ConfigError: If Ray Data is not installed, or `config` names one GPU.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ConfigError('--workers and --address need Ray Data: pip install "aot[ray]"')
    if ":" in config.model.device:
        raise ConfigError(f"--device {config.model.device} is one GPU, and Ray assigns GPUs; use --device cuda")


def rows_on_ray(
    jobs: Sequence[Job], config: Config, outputs: Outputs, cluster: Cluster, engine: EngineOptions = TRANSFORMERS
) -> Generator[list[Row], None, None]:
    """Yield the rows of each job when they arrive, in any order.

    Every worker loads the model, and writes to the folder of `outputs`, which all machines must
    share. If a worker dies, Ray starts another one and repeats its unfinished jobs.

    Raises:
        ConfigError: If the cluster has too few processors or GPUs for the workers.
        AOTError: If a worker cannot load the model or write a file.
    """
    with _connected(cluster):
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        workers, resources = reserved(ray.cluster_resources(), cluster.workers, config)
        tasks = -(-len(jobs) // min(_JOBS_PER_TASK, -(-len(jobs) // (workers * _LEAST_TASKS_PER_WORKER))))
        items = [{"job": json.dumps(asdict(job))} for job in jobs]
        rows = ray.data.from_items(items, override_num_blocks=tasks).map_batches(
            _Actor,
            fn_constructor_args=(config.to_dict(), outputs, str(Path.cwd()), engine),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=workers),
            **resources,
        )
        with _explained_errors():
            for row in rows.iter_rows():
                yield [Row.from_plain(plain) for plain in json.loads(row["rows"])]


class _Actor:
    """A process with one loaded model."""

    def __init__(self, settings: Mapping[str, Any], outputs: Outputs, folder: str, engine: EngineOptions) -> None:
        from aot.models import load_model
        from aot.pipeline.run import Pipeline

        os.chdir(folder)  # names of files mean what they mean in the command
        config = build_config(dict(settings))
        model = load_model(config.model)
        answerer = None if engine == TRANSFORMERS else open_engine(model, engine)
        pipeline = Pipeline(model, config, answerer=answerer)
        self._worker = VideoWorker(pipeline, outputs, engine.answers_at_once)

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
        jobs = (Job(**{**plain, "questions": tuple(plain["questions"])}) for plain in map(json.loads, batch["job"]))
        for rows in self._worker.run(jobs):
            yield {"rows": [json.dumps([asdict(row) for row in rows])]}


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine within the context."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.data

    for name in ("ray", "ray.data"):  # importing them sets their levels
        logging.getLogger(name).setLevel(logging.CRITICAL)
    where: dict[str, Any] = {"address": cluster.address or "local"}
    if cluster.address is None:
        cpus = max(cluster.workers or 1, os.cpu_count() or 1)
        where |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, logging_level="CRITICAL", log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"Ray cannot be used ({first_line(error)}); start a cluster with ray start --head, or leave out --address"
        ) from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would end the process at once
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _explained_errors() -> Iterator[None]:
    """Raise the error of a worker as the worker raised it."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, AOTError):
            raise type(cause)(first_line(cause)) from error
        last_line = str(error).strip().splitlines()[-1]
        raise AOTError(f"a worker on Ray failed ({last_line}); repeat the command, without --workers") from error


def reserved(held: Mapping[str, float], wanted: int | None, config: Config) -> tuple[int, dict[str, float]]:
    """Return the number of workers, and what each of them reserves of the cluster.

    Args:
        held: number of processors ("CPU") and GPUs ("GPU") of the cluster.
        wanted: number of workers; None: one per GPU, or one if there is none.
        config: the settings; `model.device` decides whether GPUs are used.

    Raises:
        ConfigError: If the cluster has too few processors or GPUs.
    """
    cpus, gpus = int(held.get("CPU", 0)), int(held.get("GPU", 0))
    on_gpu = gpus > 0 and config.model.device in ("auto", "cuda")
    workers = wanted or (gpus if on_gpu else 1)
    for most, what in ((cpus, "processors"), *([(gpus, "GPUs")] if on_gpu else [])):
        if workers > most:
            raise ConfigError(f"--workers {workers} need as many {what}, and the cluster has {most}")
    share = cpus // workers  # Ray sets the number of torch's threads by it
    return workers, {"num_cpus": share, "num_gpus": 1} if on_gpu else {"num_cpus": share}
