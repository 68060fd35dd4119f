"""The fleet of one run of a job: nodes are asked what they see, a coordinator starts here and agents on all, commands run on them."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from ..client.fleet_head import FleetHead
from ..client.fleet_jobs import all_joined, merged_code, run_command, show_fleet
from ..common.channel import is_loopback
from ..common.errors import Busy, ExitCode, ShoalError, UsageError
from . import checks, commands
from .job_plan import JobPlan, Words, this_node
from .places import held_dataset, servers_of
from .srun_agents import Layout, SrunAgents, srun_command

WATCH_S = 1.0
PROBE_TIMEOUT_S = 120.0


class FleetRun:
    """One fleet, for one run. Use `run` once."""

    def __init__(self, plan: JobPlan, stop: asyncio.Event, finished: Callable[[Words], None]) -> None:
        """Args: stop tells to give back all work; finished is called with each command that ended well and need not run again."""
        self._plan = plan
        self._stop = stop
        self._finished = finished
        self._agents = SrunAgents(plan.layout)

    async def run(self, left: Sequence[Words]) -> tuple[int, int]:
        """Run these commands. Returns one exit code, and how many of them did not get to their end. Raises ShoalError."""
        plan = self._plan
        nodes = await asyncio.to_thread(commands.hostnames, plan.here.node_list)
        if not plan.options.no_checks:
            await self._check_nodes(nodes, left)
        async with AsyncExitStack() as stack:
            head = await self._start_head(nodes, stack)
            stack.push_async_callback(asyncio.to_thread, head.close)
            stack.push_async_callback(self._agents.stop)
            await self._agents.start(head, plan.agent_settings(), plan.folder, plan.exports(head.address))
            async with head.client() as coordinator:
                beside: list[asyncio.Future[None]] = []
                watching = asyncio.ensure_future(self._watch(head))
                try:
                    alive = await all_joined(
                        coordinator, lambda: self._agents.expected, self._stop, timeout_s=plan.patience_s
                    )
                    self._judge_joined(alive, left)
                    beside.append(asyncio.ensure_future(show_fleet(coordinator, sys.stderr)))
                    return await self._run_commands(head, left, watching)
                finally:
                    for task in (watching, *beside):
                        task.cancel()
                    await asyncio.gather(watching, *beside, return_exceptions=True)

    # ---- before it starts -------------------------------------------------------------------------------------------

    async def _check_nodes(self, nodes: Sequence[str], left: Sequence[Words]) -> None:
        places = [self._plan.places[words] for words in left]
        asked = checks.question(places, servers_of(places, self._plan.settings, os.environ))
        layout = Layout(nodes=self._plan.here.nodes, cpus=self._plan.layout.cpus)
        try:
            checks.place_markers(asked)
            process = await asyncio.create_subprocess_exec(
                *srun_command(layout, "shoal.slurm.probe", name="shoal-checks", label=False),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    out, _ = await process.communicate(asked.line())
            except TimeoutError:
                process.kill()
                out, _ = await process.communicate()
            lines = out.decode(errors="replace").splitlines()
            for line in checks.verdict(asked, nodes, checks.answers_in(lines)):
                print(f"checked: {line}", file=sys.stderr, flush=True)
        except FileNotFoundError:
            raise UsageError("srun", cause="it is not in PATH", remedy="load your site's Slurm module") from None
        finally:
            checks.remove_markers(asked)

    async def _start_head(self, nodes: Sequence[str], stack: AsyncExitStack) -> FleetHead:
        """Where Slurm itself reaches this node, the agents do. Beyond loopback it listens everywhere: that address may be a name
        that means loopback on the node itself."""
        given, usual = self._plan.given(), Path(tempfile.gettempdir())
        local = checks.local_folder(usual)
        if local != usual:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-state-", dir=local))
            given["coordinator.state"] = folder
        host, node = self._plan.options.host, this_node()
        listen = "0.0.0.0"
        if not host:
            asked = [node] if node in nodes else []
            host = next(iter(await asyncio.to_thread(commands.node_addresses, asked)), socket.gethostname())
            listen = host if _is_local(host) else "::" if ":" in host else listen
        head = FleetHead(given, hosts=[host], listen_host=listen, config=self._plan.config_file())
        try:
            await asyncio.to_thread(head.start)
        except BaseException:
            await asyncio.to_thread(head.close)
            raise
        return head

    def _judge_joined(self, alive: int, left: Sequence[Words]) -> None:
        """Raises ShoalError where too few agents have joined: one will do for a copy that all share, a copy on each needs all."""
        wanted = self._plan.layout.agents
        if self._stop.is_set() or alive >= wanted:
            return
        thing = f"{wanted - alive} of {wanted} agents"
        ended = self._agents.exit_code
        default = f"they did not join within {self._plan.options.start_timeout}"
        default = default if ended is None else f"srun has ended with exit code {ended}; the lines above tell why"
        cause = next(iter(self._agents.failed.values()), default)
        remedy = f"see {self._plan.logs}"
        if not alive or not all(self._plan.places[words].shared for words in left):
            raise ShoalError(thing, cause=cause, remedy=remedy)
        print(f"warning: {thing}: {cause} ({remedy}); the others go on", file=sys.stderr, flush=True)

    # ---- at work ----------------------------------------------------------------------------------------------------

    async def _run_commands(
        self, head: FleetHead, left: Sequence[Words], watching: asyncio.Future[str]
    ) -> tuple[int, int]:
        broken = asyncio.Event()  # told to stop, by Slurm or because the fleet has ended
        stopping = asyncio.ensure_future(self._stop.wait())
        for each in (stopping, watching):
            each.add_done_callback(lambda _: broken.set())
        codes: list[int] = []
        try:
            for number, words in enumerate(left, 1):
                if broken.is_set():
                    break
                print(f"[{number}/{len(left)}] shoal {shlex.join(words)}", file=sys.stderr, flush=True)
                code = await self._run_command(head, words, broken)
                if code == ExitCode.OK and self._plan.places[words].shared:  # a node's own copy is not another node's
                    self._finished(words)
                if broken.is_set() and code != ExitCode.OK:
                    break
                codes.append(code)
        finally:
            stopping.cancel()
        if not self._stop.is_set() and watching.done() and len(codes) < len(left):
            raise ShoalError(watching.result(), cause="it has ended", remedy=f"see {self._plan.logs}")
        return merged_code(codes), len(left) - len(codes)

    async def _run_command(self, head: FleetHead, words: Words, broken: asyncio.Event) -> int:
        places = self._plan.places[words]
        environ = {**self._plan.exports(head.address), "SHOAL_DESTINATION": str(places.folder or "")}
        with ExitStack() as stack:
            if (
                places.kind == "collect" and places.folder is not None
            ):  # another job's coordinator knows nothing of this one
                try:
                    await asyncio.to_thread(stack.enter_context, held_dataset(words, self._plan.settings))
                except Busy as error:
                    print(f"shoal: {error}", file=sys.stderr, flush=True)
                    return error.exit_code
            return await run_command(head, words, broken, environ=environ)

    async def _watch(self, head: FleetHead) -> str:
        """Returns what of the fleet has ended though nobody told it to."""
        ending = asyncio.ensure_future(self._agents.ended())
        try:
            while True:
                await asyncio.wait((ending,), timeout=WATCH_S)
                if ending.done():
                    return "the agents of all nodes"
                if await asyncio.to_thread(head.poll) is not None:
                    return "the coordinator"
        finally:
            ending.cancel()


def _is_local(host: str) -> bool:
    return is_loopback(f"[{host}]:0" if ":" in host else f"{host}:0")
