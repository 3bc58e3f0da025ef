"""The protocol of a visit, with a clock that only moves when a call does."""

from itertools import repeat

from gradbench.worker.instruments.wall import BLOCK, WallTime, plan


class FakeClock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def call_of(clock, *lengths):
    """A callable that takes the lengths in turn, the last one ever after."""
    left = list(lengths)

    def call():
        call.count += 1
        clock.now += left.pop(0) if len(left) > 1 else left[0]

    call.count = 0
    return call


def test_a_sub_block_lasts_about_a_tenth_of_a_millisecond_and_longer_on_a_device():
    for length in (50, 1_000, 24_000, 60_000):
        assert 0.5 * BLOCK <= plan(length).number * length <= 1.5 * BLOCK
    clock = FakeClock()
    waited = WallTime(clock, synchronize=lambda: None)
    host = WallTime(clock).warm(call_of(clock, 10_000), repeat(()), 1_000_000)
    device = waited.warm(call_of(clock, 10_000), repeat(()), 1_000_000)
    assert (host.number, device.number) == (10, 25)


def test_long_calls_are_visited_with_fewer_repeats():
    calls = [
        (how.untimed + how.blocks * how.number)
        for how in map(plan, (1_000_000, 10_000_000, 50_000_000, 500_000_000))
    ]
    assert calls == [6, 4, 1, 1]


def test_warming_plans_by_the_fastest_block_and_calls_twice_at_least():
    clock = FakeClock()
    call = call_of(clock, 50_000_000, 1_000_000, 10_000)
    how = WallTime(clock).warm(call, repeat(()), 60_000_000)
    assert how.call == 10_000
    slow = call_of(clock, 900_000_000)
    assert WallTime(clock).warm(slow, repeat(()), 1).number == 1
    assert slow.count == 2


def test_untimed_calls_take_no_longer_than_they_must():
    assert [plan(length).untimed for length in (1_000, 99_000, 150_000, 900_000)] == [4, 4, 3, 1]


def test_a_visit_leaves_out_the_cold_calls():
    clock = FakeClock()
    wall = WallTime(clock)
    how = plan(50_000)
    call = call_of(clock, *[999_000] * how.untimed, 50_000)
    assert wall.visit(call, repeat(()), how).wall == [how.number * 50_000] * how.blocks


def test_a_device_is_waited_for_before_the_clock_is_read():
    """A call that only queues its work is timed with the work, not without."""
    clock = FakeClock()
    queued = []

    def call():
        clock.now += 2_000
        queued.append(300_000)

    def synchronize():
        clock.now += sum(queued)
        queued.clear()

    how = plan(300_000)
    blocks = WallTime(clock, synchronize).visit(call, repeat(()), how).wall
    assert blocks == [302_000] * how.blocks
    # Without waiting the same visit shows the queueing alone.
    assert WallTime(clock).visit(call, repeat(()), how).wall == [2_000] * how.blocks
