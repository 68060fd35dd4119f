"""The blocking client: the asynchronous one (`sdk.py`), run in the loop thread. Nothing is done here a second time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from ..common.errors import UsageError
from ..common.secrets import Secret
from ..common.views import JobView
from .loop_thread import LoopThread, loop_thread
from .sdk import AsyncClient, AsyncJob, SubmitOptions

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class _Blocking:
    """Runs the methods of what it wraps in the loop thread."""

    def _wrapped(self) -> tuple[LoopThread, Any]:
        raise NotImplementedError


def _blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking, P], T]:
    """The method that waits for what a method of the wrapped object brings."""

    @functools.wraps(method)
    def waiting(self: _Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        thread, wrapped = self._wrapped()  # pyright: ignore[reportPrivateUsage]  # it is of this module
        return thread.run(method(wrapped, *args, **kwargs))

    return waiting


class Job(_Blocking):
    """A job at a coordinator; the same as `AsyncJob`, and every method waits."""

    def __init__(self, client: Client, job: AsyncJob) -> None:
        self._client = client
        self._job = job
        self.id = job.id
        self.uri = job.uri

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.uri!r})"

    def _wrapped(self) -> tuple[LoopThread, AsyncJob]:
        return self._client.thread, self._job

    def watch(self) -> Iterator[JobView]:
        """The job now and at every change, as `AsyncJob.watch`."""
        return self._client.thread.iterate(self._job.watch())

    status = _blocking(AsyncJob.status)
    wait = _blocking(AsyncJob.wait)
    pause = _blocking(AsyncJob.pause)
    resume = _blocking(AsyncJob.resume)
    cancel = _blocking(AsyncJob.cancel)
    retry = _blocking(AsyncJob.retry)
    errors = _blocking(AsyncJob.errors)
    objects = _blocking(AsyncJob.objects)
    replicas = _blocking(AsyncJob.replicas)


class Client(_Blocking):
    """A client of one coordinator, for code that is not asynchronous. Use it as a context manager; it connects at the first call.

    Takes the same arguments, has the same methods and raises the same errors as `AsyncClient`. It may be used from several threads.
    """

    def __init__(
        self,
        coordinator: str | None = None,
        *,
        token: str | Secret | None = None,
        tls_ca: str | Path | None = None,
        insecure: bool | None = None,
        config_file: str | Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """See `AsyncClient`."""
        self._async = AsyncClient(
            coordinator, token=token, tls_ca=tls_ca, insecure=insecure, config_file=config_file, settings=settings
        )
        self.settings = self._async.settings
        self._stack = ExitStack()
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            thread = stack.enter_context(loop_thread())
            thread.run(self._async.__aenter__())
            stack.callback(lambda: thread.run(self._async.__aexit__(None, None, None)))
            self._stack = stack.pop_all()
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        self._thread = None
        self._stack.close()

    @property
    def thread(self) -> LoopThread:
        """Where it runs. Raises UsageError outside of the block."""
        if self._thread is None:
            raise UsageError("Client", cause="it is not open", remedy="use it as a context manager")
        return self._thread

    def _wrapped(self) -> tuple[LoopThread, AsyncClient]:
        return self.thread, self._async

    @overload
    def submit(self, uri: str, **options: Unpack[SubmitOptions]) -> Job: ...
    @overload
    def submit(self, uri: list[str] | tuple[str, ...], **options: Unpack[SubmitOptions]) -> list[Job]: ...

    def submit(self, uri: str | list[str] | tuple[str, ...], **options: Unpack[SubmitOptions]) -> Job | list[Job]:
        """Submit a source, or several at once, as `AsyncClient.submit`."""
        made = self.thread.run(self._async.submit(uri, **options))
        return Job(self, made) if isinstance(made, AsyncJob) else [Job(self, job) for job in made]

    def job(self, job_id_or_uri: str) -> Job:
        """A job by its id; the newest one by its source or name. Raises NotFound."""
        return Job(self, self.thread.run(self._async.job(job_id_or_uri)))

    jobs = _blocking(AsyncClient.jobs)
    agents = _blocking(AsyncClient.agents)
    status = _blocking(AsyncClient.status)
