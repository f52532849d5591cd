"""Every fault at every wire, unary, streamed and embedding, alone and with a fallback: what the caller sees, how often who was asked.

The faults and what must become of them are rows of `tests/conduct/faults.py`; all calls are made once, a few at a time, by a fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.conduct.calling import CASES, Case, Seen, perform_all, stage
from tests.conduct.faults import KEYS

pytestmark = pytest.mark.timeout(300)


class Conduct(NamedTuple):
    seen: dict[Case, Seen | Exception]
    log: str
    lost: int


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def conduct(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Conduct]:
    async with stage(tmp_path_factory.mktemp("conduct")) as (sidecar, upstream):
        seen = await perform_all(sidecar, upstream)
        await sidecar.until_idle()
        metric = await sidecar.metrics()
        lost = int(metric("llm_request_total")) - len(CASES)
        yield Conduct(seen, sidecar.log, lost)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
async def test_fault(conduct: Conduct, case: Case) -> None:
    seen = conduct.seen[case]
    if isinstance(seen, Exception):
        raise seen
    wanted = case.wanted()
    assert {name: getattr(seen, name) for name in wanted} == wanted, f"{seen.outcomes} {seen.message}"
    assert not any(key in seen.message for key in KEYS)


async def test_no_key_is_in_the_log_and_no_call_is_lost(conduct: Conduct) -> None:
    assert [key for key in KEYS if key in conduct.log] == []
    assert conduct.lost == 0
    assert "Traceback" not in conduct.log
