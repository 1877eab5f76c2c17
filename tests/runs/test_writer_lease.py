"""A worker group that was replaced, but still runs on an unreachable machine."""

import asyncio

import pytest

from vaedist.errors import StorageError
from vaedist.launch.training.channel import Channel
from vaedist.runs.folder import RunFolder
from vaedist.runs.writer_lease import Superseded, WriterLease, grant_lease


@pytest.mark.parametrize("kind", ["local", "on a store"])
def test_the_newest_group_may_write_and_no_other(tmp_path, s3, kind):
    run = RunFolder.at(tmp_path if kind == "local" else s3.uri("runs/fenced"))
    grant_lease(run, "first")
    first = WriterLease(run, "first")
    first.check()
    grant_lease(run, "second")
    second = WriterLease(run, "second")
    second.check()
    with pytest.raises(Superseded, match=f"worker group {second.group} has taken over"):
        first.check()


def test_events_of_a_replaced_group_are_ignored():
    async def talk():
        channel = Channel()
        await channel.listen_to("first")
        await channel.put("from the first", "first")
        await channel.listen_to("second")
        await channel.put("late, from the first", "first")
        await channel.fail(StorageError("what it wrote to has gone"), "first")
        await channel.put("from the second", "second")
        await channel.put("from the command")
        heard = [await channel.get() for _ in range(3)]
        before = await channel.error()
        await channel.fail(StorageError("no space"), "second")
        return heard, before, await channel.error()

    heard, before, after = asyncio.run(talk())
    assert heard == ["from the first", "from the second", "from the command"]
    assert before is None
    assert str(after) == "no space"
