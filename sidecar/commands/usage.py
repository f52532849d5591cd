"""`sidecar usage …`: what the usage log tells, asked from a running sidecar or read from its folder; as a table, JSON or CSV."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sidecar.days import Days

Line = dict[str, Any]  # by column; amounts in nano-USD under names that end in _nano_usd

_SHOWN = {
    "report": ("calls", "failed", "cached", "tokens_in", "tokens_out", "cost_nano_usd", "mean_ms"),
    "cache": (
        "calls",
        "input_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "saved_nano_usd",
        "extra_nano_usd",
        "net_nano_usd",
        "return_percent",
    ),
    "fallbacks": ("calls", "fallbacks", "cost_nano_usd", "primary_nano_usd", "failed_tries_nano_usd", "extra_nano_usd"),
    "calls": ("time", "id", "service", "node", "tenant", "model", "status", "tokens_in", "tokens_out", "cost_nano_usd", "duration_ms"),
}
_BY = {"report": "service,node", "cache": "model", "fallbacks": "service,node"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put `usage` among the commands."""
    usage = commands.add_parser("usage", help="what calls used and cost: reports, single calls, a forecast, feedback")
    kinds = usage.add_subparsers(dest="kind", required=True, metavar="KIND")
    told = {
        "report": "calls, tokens and cost, by day, service, node, model, tenant …",
        "cache": "what the providers' prompt caching saved and cost",
        "fallbacks": "what answers by fallback cost against the models that were wanted first",
        "calls": "single calls, newest first",
        "forecast": "what this month will cost",
        "feedback": "attach a quality or a vote to a call",
    }
    for kind, help_ in told.items():
        one = kinds.add_parser(kind, help=help_)
        one.add_argument("--target", default="127.0.0.1:50051", metavar="ADDRESS", help="host:port or unix:/path (default: %(default)s)")
        if kind == "feedback":
            one.add_argument("id", help="the call's id, as its answer tells it")
            one.add_argument("--quality", type=float, metavar="0-1")
            votes = one.add_mutually_exclusive_group()
            votes.add_argument("--up", action="store_true")
            votes.add_argument("--down", action="store_true")
            continue
        one.add_argument(
            "--data-dir", metavar="FOLDER", help="read the file in there instead (server.data_dir); rows in a PostgreSQL are not"
        )
        one.add_argument("--time-zone", default="UTC", help="of days, with --data-dir: as usage.time_zone (default: %(default)s)")
        one.add_argument("--where", action="append", default=[], metavar="NAME=VALUE", help="only these calls, for example service=oracle")
        forms = one.add_mutually_exclusive_group()
        forms.add_argument("--json", action="store_true", help="as JSON, with every figure; amounts in nano-dollars")
        forms.add_argument("--csv", action="store_true", help="as CSV, with every figure; amounts in nano-dollars")
        if kind == "forecast":
            continue
        since = "today" if kind == "calls" else "the first of this month"
        one.add_argument("--from", dest="from_day", default="", metavar="DAY", help=f"YYYY-MM-DD (default: {since})")
        one.add_argument("--to", dest="to_day", default="", metavar="DAY", help="the last day (default: today)")
        one.add_argument("--limit", type=int, default=0, help="at most so many lines")
        if kind == "calls":
            one.add_argument("--failed", action="store_true", help="only calls without a whole answer")
        else:
            one.add_argument("--by", default=_BY[kind], metavar="NAMES", help="for example day,tenant (default: %(default)s)")


def usage(arguments: argparse.Namespace) -> int:
    """Prints what was asked for. Exit status 0, 1 where it could not be had, 2 for a mistake in the arguments."""
    import grpc

    from sidecar.commands.ask import told
    from sidecar.errors import RequestError, StoreFailed

    try:
        where = dict(_pair(text) for text in getattr(arguments, "where", ()))
        if getattr(arguments, "data_dir", None) is not None:
            return _show(arguments, _File(Path(arguments.data_dir), arguments.time_zone), where)
        with grpc.insecure_channel(arguments.target, options=(("grpc.max_receive_message_length", -1),)) as channel:
            running = _Running(channel)
            if arguments.kind == "feedback":
                vote = 1 if arguments.up else -1 if arguments.down else 0
                running.feedback(arguments.id, arguments.quality, vote)
                return 0
            return _show(arguments, running, where)
    except grpc.RpcError as error:
        sys.stderr.write(f"sidecar usage: {told(error, arguments.target)}\n")
        return 1
    except StoreFailed as error:
        sys.stderr.write(f"sidecar usage: {error.message}\n")
        return 1
    except (RequestError, ValueError) as error:
        sys.stderr.write(f"sidecar usage: {error}\n")
        return 2


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--where is {text!r}; expected NAME=VALUE, for example service=oracle")
    return name, value


class _Source(Protocol):
    """Where figures come from. Lines are by column, the first columns of a report's are its groups."""

    def report(self, by: list[str], where: Mapping[str, str], from_day: str, to_day: str, limit: int) -> tuple[list[Line], Line, str]: ...
    def calls(self, where: Mapping[str, str], from_day: str, to_day: str, limit: int, *, failed: bool) -> list[Line]: ...
    def forecast(self, where: Mapping[str, str]) -> Line: ...


class _Running:
    """A sidecar that runs. The operators' token, where it wants one, is in LLM_TOKEN: a command line can be read by everybody."""

    def __init__(self, channel: Any) -> None:
        from sidecar.v1 import ops_pb2
        from sidecar.v1.ops_pb2_grpc import OpsServiceStub

        self._pb, self._ops = ops_pb2, OpsServiceStub(channel)
        token = os.environ.get("LLM_TOKEN")
        self._proof = (("authorization", f"Bearer {token}"),) if token else ()

    def report(self, by: list[str], where: Mapping[str, str], from_day: str, to_day: str, limit: int) -> tuple[list[Line], Line, str]:
        pb = self._pb
        which = pb.UsageFilter(from_day=from_day, to_day=to_day, equals=where)
        reply = self._ops.ReportUsage(pb.ReportUsageRequest(filter=which, by=by, limit=limit), metadata=self._proof)
        lines = [{**dict(zip(by, group.keys, strict=True)), **_fields(group.sums)} for group in reply.groups]
        return lines, _fields(reply.total), f"{reply.from_day} to {reply.to_day}, {reply.time_zone}"

    def calls(self, where: Mapping[str, str], from_day: str, to_day: str, limit: int, *, failed: bool) -> list[Line]:
        pb = self._pb
        which = pb.UsageFilter(from_day=from_day, to_day=to_day, equals=where)
        request = pb.ListCallsRequest(filter=which, failed_only=failed, limit=limit)
        return [_call_line(call) for call in self._ops.ListCalls(request, metadata=self._proof).calls]

    def forecast(self, where: Mapping[str, str]) -> Line:
        reply = self._ops.ForecastUsage(self._pb.ForecastUsageRequest(equals=where), metadata=self._proof)
        found = _fields(reply)
        return found | {"left_ms": round(reply.left.ToTimedelta() / _MS), "basis_ms": round(reply.basis.ToTimedelta() / _MS)}

    def feedback(self, id: str, quality: float | None, vote: int) -> None:
        votes = {1: self._pb.VOTE_UP, -1: self._pb.VOTE_DOWN, 0: self._pb.VOTE_UNSPECIFIED}
        self._ops.GiveFeedback(self._pb.GiveFeedbackRequest(id=id, quality=quality, vote=votes[vote]), metadata=self._proof)


_MS = timedelta(milliseconds=1)


def _fields(message: Any) -> Line:
    """Every plain field by its name, also those that are zero; None: it is not set, and that is no zero."""

    def value(field: Any) -> Any:
        return None if field.has_presence and not message.HasField(field.name) else getattr(message, field.name)

    return {field.name: value(field) for field in message.DESCRIPTOR.fields if field.message_type is None}


def _call_line(call: Any) -> Line:
    caller = {name: value for name, value in _fields(call.caller).items() if name != "priority"}
    told = _fields(call) | caller | _fields(call.usage) | {"tags": dict(call.caller.tags)}
    return told | {"vote": {1: 1, 2: -1}.get(call.vote)}


def _row_line(row: Line) -> Line:
    """A row of the file under the names that a running sidecar uses."""
    quality_ppm, saved = row.pop("quality_ppm"), row.pop("answer_saved_nano_usd")
    return row | {
        "user": row.pop("user_id"),
        "tags": json.loads(row["tags"]),
        "quality": None if quality_ppm is None else quality_ppm / 1_000_000,
        "saved_nano_usd": saved or 0,
        "estimated": bool(row["estimated"]),
        "fallback": bool(row["fallback"]),
    }


class _File:
    """The file of a sidecar that need not run."""

    def __init__(self, folder: Path, time_zone: str) -> None:
        from functools import partial

        from sidecar.days import Days, zone_of
        from sidecar.store import usage_file, usage_reports

        self._reports = usage_reports
        self._ask = partial(usage_file.ask, folder / usage_file.FILE)
        self._zone = time_zone
        self._days: Days = Days(zone_of(time_zone))
        self._now_ms = time.time_ns() // 1_000_000

    def report(self, by: list[str], where: Mapping[str, str], from_day: str, to_day: str, limit: int) -> tuple[list[Line], Line, str]:
        from sidecar.days import month_begin

        today = self._days.of(self._now_ms)
        begin, end = self._reports.period(from_day, to_day, month_begin(today), today)
        by, where = self._reports.checked_groups(by, "by"), self._checked(where)
        groups, total = self._reports.report(self._ask, self._days, begin, end, by, where, limit or 1_000)
        lines = [{**dict(zip(by, group.keys, strict=True)), **group.figures} for group in groups]
        return lines, total.figures, f"{begin} to {end - timedelta(1)}, {self._zone}"

    def calls(self, where: Mapping[str, str], from_day: str, to_day: str, limit: int, *, failed: bool) -> list[Line]:
        from msgspec.structs import asdict

        today = self._days.of(self._now_ms)
        begin, end = self._reports.period(from_day, to_day, self._reports.EVER if "id" in where else today, today)
        rows = self._reports.calls(self._ask, self._days, begin, end, self._checked(where, "id"), None, limit or 100, is_failed=failed)
        return [_row_line(asdict(row)) for row in rows]

    def forecast(self, where: Mapping[str, str]) -> Line:
        found = self._reports.forecast(self._ask, self._days, self._now_ms, self._checked(where))
        return {
            "from_day": str(found.month[0]),
            "to_day": str(found.month[1] - timedelta(1)),
            "basis_from_day": str(found.basis[0]),
            "basis_to_day": str(found.basis[1] - timedelta(1)),
            **{name: getattr(found, name) for name in ("spent_nano_usd", "forecast_nano_usd", "basis_nano_usd", "left_ms", "basis_ms")},
        }

    def _checked(self, where: Mapping[str, str], *more: str) -> dict[str, str]:
        self._reports.checked_groups(where, "where", more)
        return dict(where)


# --- out ------------------------------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace, source: _Source, where: Mapping[str, str]) -> int:
    kind = arguments.kind
    if kind == "forecast":
        found = source.forecast(where)
        _print(arguments, [found], {"forecast": found}, [_forecast_words(found)])
        return 0
    if kind == "calls":
        lines = source.calls(where, arguments.from_day, arguments.to_day, arguments.limit, failed=arguments.failed)
        _print(arguments, lines, {"calls": lines}, _table([_derived(line) for line in lines], _SHOWN["calls"]))
        return 0
    by = [name.strip() for name in arguments.by.split(",") if name.strip()]
    lines, total, period = source.report(by, where, arguments.from_day, arguments.to_day, arguments.limit)
    lines, total = [_derived(line, kind) for line in lines], _derived(total, kind)
    columns = (*by, *_SHOWN[kind])
    rows = [*lines, {**dict.fromkeys(by, ""), **(({by[0]: "total"} | {n: total[n] for n in _SHOWN[kind]}) if by else total)}]
    _print(arguments, lines or [total], {"period": period, "groups": lines, "total": total}, [f"{period}", *_table(rows, columns)])
    return 0


def _derived(line: Line, kind: str = "") -> Line:
    """The line and what follows from it; of the reports on caching and fallbacks the amounts have names of their own."""
    found = dict(line)
    found["tokens_in"] = line["input_tokens"] + line["cached_input_tokens"] + line["cache_write_tokens"]
    found["tokens_out"] = line["output_tokens"] + line["reasoning_tokens"]
    if "time_ms" in line:
        found["time"] = datetime.fromtimestamp(line["time_ms"] / 1000, UTC).isoformat(sep=" ", timespec="seconds")[:19]
    else:
        found["mean_ms"] = line["duration_ms"] // max(1, line["calls"])
    if kind == "cache":
        saved, extra = line["cache_saved_nano_usd"], line["cache_write_extra_nano_usd"]
        found |= {"saved_nano_usd": saved, "extra_nano_usd": extra, "net_nano_usd": saved - extra}
        found["return_percent"] = round(100 * (saved - extra) / extra) if extra else None
    if kind == "fallbacks":
        cost, primary, failed = (line[f"fallback_{name}nano_usd"] for name in ("", "primary_", "failed_"))
        found |= {"cost_nano_usd": cost, "primary_nano_usd": primary, "failed_tries_nano_usd": failed}
        found["extra_nano_usd"] = cost - primary + failed
    return found


def _print(arguments: argparse.Namespace, lines: Sequence[Line], whole: Mapping[str, Any], words: Sequence[str]) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    elif arguments.csv:
        if lines:
            writer = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    else:
        sys.stdout.write("".join(f"{word}\n" for word in words))


def _cell(value: Any) -> Any:
    """A value as CSV has it. What a caller wrote must not become a formula in somebody's spreadsheet."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def usd(nano: int) -> str:
    """Exact, all nine digits."""
    return f"{'-' if nano < 0 else ''}{abs(nano) // 10**9}.{abs(nano) % 10**9:09d}"


def _table(lines: Sequence[Line], columns: Sequence[str]) -> list[str]:
    """Columns as wide as what is in them; figures to the right."""
    titles = [name.removesuffix("_nano_usd") + (" USD" if name.endswith("_nano_usd") else "") for name in columns]
    cells = [[_shown(name, line[name]) for name in columns] for line in lines]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    are_figures = [all(isinstance(line[name], int | None) for line in lines) and bool(lines) for name in columns]
    align: list[Callable[[str, int], str]] = [str.rjust if is_figure else str.ljust for is_figure in are_figures]
    return ["  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip() for row in (titles, *cells)]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return usd(value) if name.endswith("_nano_usd") else str(value)


def _forecast_words(found: Line) -> str:
    days, hours = found["left_ms"] / 86_400_000, found["basis_ms"] / 3_600_000
    return (
        f"{usd(found['forecast_nano_usd'])} USD from {found['from_day']} to {found['to_day']}\n"
        f"  {usd(found['spent_nano_usd'])} USD are spent; for the {days:.1f} days left it is taken to cost as much per hour as from\n"
        f"  {found['basis_from_day']} to {found['basis_to_day']}: {usd(found['basis_nano_usd'])} USD in {hours:.1f} hours"
    )
