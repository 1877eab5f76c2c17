"""The channel between a run's workers and its command, without its actor."""

import asyncio

from vaedist.launch.training.channel import Channel
from vaedist.monitor.events import Saved


def test_a_save_request_waits_for_a_checkpoint_made_for_it_by_the_current_group():
    async def ask():
        channel = Channel()
        await channel.listen_to("second")
        wish = asyncio.create_task(channel.save())
        met = []
        for event, group in (
            (Saved(1, 1000, "begun before"), "second"),
            (Saved(1, 900, "late", asked=True), "first"),
            (Saved(1, 1050, "for it", asked=True), "second"),
        ):
            await channel.put(event, group)
            await asyncio.sleep(0.01)
            met.append(wish.done())
        return met, [(await channel.get()).path for _ in range(2)]

    assert asyncio.run(ask()) == ([False, False, True], ["begun before", "for it"])
