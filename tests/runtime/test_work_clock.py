from visor_jax.runtime.work_clock import WorkClock


def test_what_is_left_out_does_not_count():
    now = 10.0
    clock = WorkClock(clock=lambda: now)
    now += 2
    assert clock.seconds() == 2
    with clock.stopped():
        now += 5
        with clock.stopped():
            now += 1
        now += 1
    assert clock.seconds() == 2
    now += 3
    assert clock.seconds() == 5


def test_an_error_does_not_stop_it_for_ever():
    now = 0.0
    clock = WorkClock(clock=lambda: now)
    try:
        with clock.stopped():
            now += 4
            raise ValueError
    except ValueError:
        now += 1
    assert clock.seconds() == 1
