"""Call a function on the workers of a Dask cluster, which is started here or runs already."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, Self, TypeVar

import pydantic

from featcache.config import Config
from featcache.devices import visible_gpus
from featcache.errors import ClusterError, ConfigError, MissingExtra, option
from featcache.processes import without_main

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")
R = TypeVar("R")
Say = Callable[[str], object]
AHEAD = 2
"""Tasks given to a worker: one to compute, and one to begin with at once when that is done."""
CONNECT_SECONDS = 30
_TOPIC = "featcache"
_CONFIG = {
    "distributed.worker.daemon": False,  # so that a worker can have reading processes
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
}


class ClusterOptions(Config):
    """Where work is done other than in this process; here, if neither is given."""

    workers: Annotated[int, pydantic.Field(ge=1, le=1024)] | None = None
    """Processes on this machine: one for each GPU, or sharing the cores."""
    scheduler: str | None = None
    """Address of a Dask scheduler that runs already, such as tcp://host:8786."""

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.workers is not None and self.scheduler is not None:
            raise ConfigError(
                f"{option('workers')} and {option('scheduler')} exclude each other",
                got=f"{self.workers} workers, and {self.scheduler}",
                expected="workers that are started here, or a scheduler that has its own",
            )
        return self

    @property
    def used(self) -> bool:
        """True if there is a cluster."""
        return self.workers is not None or self.scheduler is not None


HERE = ClusterOptions()
"""No cluster."""


class Died(NamedTuple):
    """The end of a task whose workers died, as often as the scheduler allows."""

    reason: str


class Done(NamedTuple, Generic[T, R]):
    """A task that has ended, and what its function returned."""

    task: T
    outcome: R | Died


class Cluster:
    """A connection to a Dask cluster."""

    def __init__(self, client: distributed.Client) -> None:
        self._client = client

    @property
    def workers(self) -> int:
        """Number of workers now; they come and go."""
        return len(self._client.nthreads())

    def run(
        self,
        function: Callable[[T], R],
        tasks: Callable[[int], T | None],
    ) -> Iterator[Done[T, R]]:
        """Yield tasks as they end.

        `tasks` gives the next one, for a number of workers, or None if there is none at the moment. No more
        are in flight than keep the workers busy. Raises what `function` raises, and ClusterError if the
        scheduler is lost. Either way, and if the iterator is closed, the others are cancelled.
        """
        from distributed import as_completed

        running: dict[Any, T] = {}
        done = as_completed()
        try:
            while True:
                workers = max(1, self.workers)
                while len(running) < AHEAD * workers and (task := tasks(workers)) is not None:
                    future = self._client.submit(function, task, pure=False)
                    running[future] = task
                    done.add(future)
                if not running:
                    return
                future = next(done)
                yield Done(running.pop(future), self._outcome(future))
        finally:
            with suppress(Exception):  # the scheduler may be gone
                self._client.cancel([*running])

    @contextmanager
    def hearing(self, heard: Callable[[Any], object]) -> Iterator[None]:
        """Call `heard`, in another thread, with what functions on workers `tell`."""
        self._client.subscribe_topic(_TOPIC, lambda event: heard(event[1]))
        try:
            yield
        finally:
            with suppress(Exception):
                self._client.unsubscribe_topic(_TOPIC)

    def _outcome(self, future: Any) -> Any:
        from distributed import KilledWorker

        if future.status == "finished":
            return future.result()
        if future.status != "error":
            raise self._lost()
        error = future.exception()
        if isinstance(error, KilledWorker):
            return Died(f"{error.allowed_failures + 1} workers died while they computed it")
        raise error

    def _lost(self) -> ClusterError:
        return ClusterError(
            "the scheduler does not answer any more, or has cancelled the work",
            got=self._client.scheduler.address if self._client.scheduler else "no connection",
            hint="repeat the command: it continues with what is missing",
        )


_ALONE = threading.Lock()


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold a worker for one task, in a folder, from which the paths of the task start.

    A worker may have several threads, and a model is not for two at a time. Raises ClusterError if the worker
    does not see the folder.
    """
    with _ALONE:
        try:
            os.chdir(folder)
        except OSError as error:
            raise ClusterError(
                f"a worker does not see the folder {folder}",
                got=error.strerror,
                hint="start the command in a folder that all machines share",
            ) from None
        yield


def tell(message: Any) -> None:
    """Send a message, of values that JSON has, from a function on a worker to `heard`."""
    from distributed import get_worker

    get_worker().log_event(_TOPIC, message)


def is_wanted() -> bool:
    """Return False on a worker whose task has been cancelled, or whose scheduler is gone."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state == "executing" and str(worker.status.name) == "running"


@contextmanager
def connected(
    options: ClusterOptions, device: str = "auto", say: Say = lambda line: None
) -> Iterator[Cluster]:
    """Start a cluster on this machine, or connect to one; it is closed afterwards, or left as it was.

    `device` is what workers compute on. Raises MissingExtra without `distributed`, and ClusterError if the
    scheduler cannot be reached.
    """
    try:
        import dask
        import distributed
    except ImportError:
        raise MissingExtra.of("distributed", "dask") from None
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        stack.enter_context(_quiet())
        if options.scheduler is None:
            stack.enter_context(without_main())
            address: Any = stack.enter_context(_started(options.workers or 1, device))
        else:
            address = options.scheduler
        try:
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT_SECONDS))
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {options.scheduler}",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected="an address such as tcp://host:8786",
                hint="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
            ) from None
        cluster = Cluster(client)
        if not cluster.workers:
            say(f"waiting for a worker at {options.scheduler}")
            client.wait_for_workers(1)
        say(f"workers: {cluster.workers}, dashboard: {client.dashboard_link}")
        yield cluster


@contextmanager
def _started(workers: int, device: str) -> Iterator[Any]:
    """Start a scheduler in this process, and workers in processes that end with it, however it ends."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = [] if device == "cpu" else visible_gpus()
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    spec = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": 0,  # the system's own limit holds
                "silence_logs": logging.CRITICAL,
                "env": {
                    "OMP_NUM_THREADS": threads,
                    **({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {}),
                },
            },
        }
        for number in range(workers)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}}
    try:
        cluster = SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)
    except (RuntimeError, OSError, TimeoutError) as error:
        raise ClusterError(
            f"{workers} workers cannot be started on this machine",
            got=f"{type(error).__name__}: {error}",
            hint=f"check memory and the limit of processes, or ask for fewer {option('workers')}",
        ) from error
    with cluster:
        yield cluster


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the library logs: what matters is an error of ours."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    loggers = [logging.getLogger(name) for name in names]  # each has a level of its own
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
