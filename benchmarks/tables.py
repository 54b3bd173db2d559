"""The comparisons, the lists they are made on, and the targets of this package."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.reading.linked_read import PATIENCE, PATIENCE_AT_THE_END
from airflow_provider_unpod.billing.reading.windows import planned_requests
from airflow_provider_unpod.billing.watching.watch import ListWatch
from benchmarks import server as sandbox
from benchmarks.running import HUNG, Contender, Run, run
from benchmarks.server import Server
from benchmarks.targets import Target

MIB = 2**20
TIMES = "\N{MULTIPLICATION SIGN}"


def _server(**settings: Any) -> Server:
    return Server(**{"end": "empty", "seed": 1, **settings})


def ours(consistency: str, connections: int, what: str = "export") -> Contender:
    alone = ", list alone" if what == "read" else ""
    return Contender(
        f"**{consistency}**, {connections} connections{alone}", "ours", (what, consistency, str(connections))
    )


FLOOR = Contender("floor: 16 connections, nothing parsed", "floor", ("16",))
THREADS = Contender("16 threads, a requests session each, unchecked", "threads", ("16",))
LOOP = Contender("requests loop", "requests_loop")
LOOP_ALONE = Contender("requests loop, rows dropped", "requests_loop", ("read",))
HTTP_OPERATOR = Contender("Airflow HTTP operator", "http_operator")
DLT = Contender("dlt rest_api", "dlt_source")
SINGER = Contender("Singer tap", "singer_tap")
PEERS = (LOOP, HTTP_OPERATOR, DLT, SINGER)
#: Runs that take longer than these seconds are made once, since disturbances are small in comparison.
LONG = 8.0
#: The defaults of the operator, and the cheaper level.
LINKED, SINGLE_PASS = ours("linked", 4), ours("single-pass", 4)


@dataclass(frozen=True)
class Scale:
    """Invoices per list, and rounds per measurement. The best round counts, because other load only adds time."""

    small: int = 1_000
    medium: int = 20_000
    large: int = 200_000
    rounds: int = 3


QUICK = Scale(500, 2_000, 5_000, 1)


@dataclass
class Table:
    """A Markdown table, and the targets for its figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def requests_when_quiet(scale: Scale) -> Table:
    table = Table("Requests for a list that does not move", ("invoices", "⌈n/100⌉", "single-pass", "linked"))
    for size in (1, 99, 100, 250, 500, scale.small, 5_000, scale.medium, scale.large):
        plain = -(-size // 100)
        with _server(invoices=size) as server:
            single, linked = (run(ours(level, 4, "read"), server).requests for level in ("single-pass", "linked"))
        table.rows.append((f"{size:,}", f"{plain:,}", f"{single:,}", f"{linked:,} ({TIMES}{linked / plain:.2f})"))
        most = 1 if size < 100 else plain + 1 if size <= 500 else plain * (1.2 if size <= 5_000 else 1.16) + 1
        table.targets += [
            Target(f"requests, single-pass, {size:,} invoices", plain + (size >= 100), single),
            Target(f"requests, linked, {size:,} invoices", int(most), linked),
        ]
    return table


def wall_clock(scale: Scale) -> Iterable[Table]:
    contenders = (FLOOR, THREADS, *PEERS, LINKED)
    at_sixteen = [ours(level, 16, what) for level in ("linked", "single-pass") for what in ("export", "read")]
    for latency, size in ((0, scale.small), (0, scale.medium), (50, scale.small), (50, scale.medium)):
        with _server(invoices=size, latency=latency) as server:
            best = best_runs((*contenders, *at_sixteen), server, scale.rounds)
        table = Table(
            f"Wall clock, {size:,} invoices, {latency} ms latency",
            ("", "requests", "seconds", "against the floor", "against the requests loop", "CPU against the loop"),
        )
        for contender, it in best.items():
            table.rows.append(
                (
                    contender.name,
                    f"{it.requests:,}",
                    f"{it.wall:.2f}",
                    f"{TIMES}{it.wall / best[FLOOR].wall:.2f}",
                    f"{TIMES}{it.wall / best[LOOP].wall:.2f}",
                    f"{TIMES}{it.cpu / best[LOOP].cpu:.2f}",
                )
            )
        if latency and size == scale.medium:
            for contender, most in zip((*at_sixteen, LINKED), (1.3, 1.3, 1.15, 1.15, 4.6), strict=True):
                ratio = best[contender].wall / best[FLOOR].wall
                what = f"wall clock against the floor, {latency} ms, {contender}"
                table.targets.append(Target(what, most, ratio, noisy=True))
        yield table


def cost(scale: Scale) -> Table:
    """CPU, memory and wall clock for large lists; memory compared with small ones."""
    alone = [ours(level, 4, "read") for level in ("linked", "single-pass")]
    contenders = (LOOP, LOOP_ALONE, *PEERS[1:], LINKED, SINGLE_PASS, *alone)
    with _server(invoices=scale.small) as server:
        small = best_runs(contenders, server, 1)
    with _server(invoices=scale.large) as server:
        large = best_runs(contenders, server, scale.rounds)
    table = Table(
        f"CPU and memory, {scale.large:,} invoices, 0 ms latency",
        ("", "CPU seconds", "against the loop", "wall seconds", f"peak memory above {scale.small:,} invoices"),
    )
    for contender, it in large.items():
        base = large[LOOP_ALONE if contender in (LOOP_ALONE, *alone) else LOOP].cpu
        growth = (it.memory - small[contender].memory) / MIB
        table.rows.append(
            (contender.name, f"{it.cpu:.2f}", f"{TIMES}{it.cpu / base:.2f}", f"{it.wall:.1f}", f"{growth:+.0f} MiB")
        )
        if contender.script == "ours":
            most = 1.4 if "linked" in contender.arguments else 1.2
            table.targets += [
                Target(f"CPU against the loop, {contender}", most, it.cpu / base, noisy=True),
                Target(f"MiB of memory above {scale.small:,} invoices, {contender}", 30, growth, noisy=True),
            ]
    return table


def drift(scale: Scale) -> Iterable[Table]:
    """The list changes while it is read."""
    moves = {
        "a random deletion every 7 requests": ("newest", "delete-random:7"),
        "a deletion at the front every 7 requests": ("newest", "delete-front:7"),
        "an insertion every 7 requests": ("newest", "insert:7"),
        "an insertion and a random deletion every 7 requests, hidden from `count`": (
            "oldest",
            "insert:7",
            "delete-random:7",
        ),
        "the same with every request": ("oldest", "insert:1", "delete-random:1"),
        "three hundred of both with every request": ("oldest", *["insert:1", "delete-random:1"] * 300),
    }
    contenders = (*PEERS, THREADS, SINGLE_PASS, LINKED, ours("linked", 16))
    for what, (order, *moves_of_it) in moves.items():
        settings: dict[str, object] = {"invoices": scale.medium, "order": order, "drift": moves_of_it}
        table = outcomes(f"{scale.medium:,} invoices, {what}", contenders, settings)
        yield table.table
        hidden = len(moves_of_it) > 1  # from `count` and ids, and so from a single pass
        for contender, it in table.runs.items():
            if contender.script == "ours" and not (hidden and contender is SINGLE_PASS):
                lost = 0 if it.status else it.missing + it.doubled
                table.table.targets.append(Target(f"rows missing or twice, {what}, {contender}", 0, lost))
            if contender.script == "ours" and it.status:
                limit = PATIENCE * planned_requests(scale.medium + 100, 100) + PATIENCE_AT_THE_END
                table.table.targets.append(Target(f"requests before it fails, {what}, {contender}", limit, it.requests))
        if moves_of_it == ["insert:7"]:
            it = table.runs[LINKED]
            most = scale.medium / 100 * 1.3 if it.status == 0 else 0
            table.table.targets.append(Target(f"requests, {what}, {LINKED}", most, it.requests))


def faults(scale: Scale) -> Iterable[Table]:
    """The API returns errors."""
    contenders = (*PEERS, SINGLE_PASS, LINKED)
    with _server(invoices=scale.medium) as server:
        quiet = {it: run(it, server).requests for it in contenders}
    noise = ["500:probability=0.05", "reset:probability=0.02", "429:probability=0.02,retry_after=1"]
    middle = f"every={scale.medium // 400}"
    kinds: dict[str, dict[str, object]] = {
        "5 % HTTP 500, 2 % resets, 2 % HTTP 429": {"faults": noise},
        "HTTP 206 once, a quarter of the way": {"faults": [f"206:{middle},times=1"]},
        "a truncated body once": {"faults": [f"truncated:{middle},times=1"]},
        "50 requests allowed every 6 seconds": {"rate_limit": 50, "rate_window": 6},
    }
    for what, settings in kinds.items():
        found = outcomes(f"{scale.medium:,} invoices, {what}", contenders, {"invoices": scale.medium, **settings})
        yield found.table
        for contender in (SINGLE_PASS, LINKED):
            it = found.runs[contender]
            if "206" in what:
                found.table.targets.append(Target(f"exit status 0, {what}, {contender}", 0, it.status == 0))
                continue
            incomplete = it.missing + it.doubled if it.status == 0 else scale.medium
            found.table.targets.append(Target(f"rows missing or twice, {what}, {contender}", 0, incomplete))
            most = quiet[contender] * 1.15 if "500" in what else quiet[contender] + (2 if "allowed" in what else 1)
            found.table.targets.append(Target(f"requests, {what}, {contender}", int(most), it.requests))


def finding(scale: Scale) -> Table:
    """Requests to find one invoice: the first search, and later ones with the same watch."""
    table = Table(
        f"Requests to find one of {scale.large:,} invoices (most of 50 random ones)",
        ("list", "first search", "later search", "later search, one invoice created in between"),
    )
    chosen = random.Random(1)
    for order in ("newest", "oldest"):
        with (
            _server(invoices=scale.large, order=order) as server,
            UnpodClient(server.url, "sandbox-token", "unpod.tv") as client,
        ):
            searches = [search_for(one, client, server) for one in chosen.sample(server.call(sandbox.ids), 50)]
        most = [max(of_kind) for of_kind in zip(*searches, strict=True)]
        table.rows.append((f"{order} first", *map(str, most)))
        for what, limit, seen in zip(("first search", "later search", "moving list"), (7, 1, 3), most, strict=True):
            table.targets.append(Target(f"requests to find an invoice, {order} first, {what}", limit, seen))
    return table


def search_for(invoice_id: int, client: UnpodClient, server: Server) -> tuple[int, int, int]:
    """Requests of a first search, of a second one, and of a third after an invoice was created."""
    watch = ListWatch(client)

    def search() -> int:
        before = client.requests_made
        assert watch.locate(invoice_id) is not None
        return client.requests_made - before

    quiet = search(), search()
    server.call(sandbox.create)
    return *quiet, search()


@dataclass
class Outcomes:
    table: Table
    runs: dict[Contender, Run]


def outcomes(title: str, contenders: Iterable[Contender], settings: dict[str, object]) -> Outcomes:
    """Run each contender against its own server; all servers change or fail in the same way."""
    found = Outcomes(Table(title, ("", "rows missing", "rows twice", "requests", "ends with")), {})
    for contender in contenders:
        with _server(**settings) as server:
            it = found.runs[contender] = run(contender, server)
        rows = (f"{it.missing:,}", f"{it.doubled:,}") if it.status == 0 else ("-", "-")
        found.table.rows.append((contender.name, *rows, f"{it.requests:,}", _ending(it)))
    return found


def _ending(it: Run) -> str:
    if it.status == HUNG:
        return "stopped: it did not end"
    if it.status == 0:
        return "success" + (", **wrongly**" if it.missing or it.doubled else "")
    error = it.error.partition(":")[0].rpartition(".")[2]
    return f"exit status {it.status}, {error}" if error.isidentifier() else f"exit status {it.status}"


def best_runs(contenders: Iterable[Contender], server: Server, rounds: int) -> dict[Contender, Run]:
    """The best figures of each contender. Rounds take turns, so that other load affects all contenders alike.

    :raises RuntimeError: if a run fails or loses invoices, so that its time means nothing.
    """
    runs: dict[Contender, list[Run]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, before in runs.items():
            if before and before[0].wall > LONG:
                continue
            it = run(contender, server)
            if it.status or (it.missing and _writes(contender)):
                raise RuntimeError(f"{contender}: {it}")
            before.append(it)
    return {contender: _best(of_it) for contender, of_it in runs.items()}


def _writes(contender: Contender) -> bool:
    return contender.script != "floor" and "read" not in contender.arguments


def _best(runs: list[Run]) -> Run:
    one = runs[0]
    return Run(
        one.status,
        one.requests,
        min(it.wall for it in runs),
        min(it.cpu for it in runs),
        min(it.memory for it in runs),
        one.missing,
        one.doubled,
        one.error,
    )


TABLES: dict[str, Callable[[Scale], Table | Iterable[Table]]] = {
    "requests": requests_when_quiet,
    "wall": wall_clock,
    "cost": cost,
    "drift": drift,
    "faults": faults,
    "finding": finding,
}
