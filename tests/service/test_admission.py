"""Admission on a clock of the test's own."""

import pytest

from service.admission import STANDING_SECONDS, Admission

ENOUGH = 10
PATIENCE = 1.0


class Sizes:
    """Recalls are computed one by one."""

    max_batch = 1
    ahead = ENOUGH - 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Answers recalls at a constant rate, and lets others in where there is room."""

    def __init__(self, seconds: float) -> None:
        self.clock = Clock()
        self.admission = Admission(Sizes(), self.clock)
        self.seconds = seconds

    def arrive(self, count: int, client: str = "") -> int:
        """Offers recalls; returns how many of them are accepted."""
        accepted = 0
        for _ in range(count):
            if self.admission.has_room(PATIENCE, client=client):
                self.admission.enter(client)
                accepted += 1
        return accepted

    def answer(self, count: int = 1, client: str = "") -> None:
        for _ in range(count):
            sent = self.clock.now
            self.clock.now += self.seconds
            self.admission.answered(sent)
            self.admission.leave(client)


@pytest.fixture
def engine() -> Engine:
    """One that answers 1,000 recalls/s, and is known to."""
    engine = Engine(seconds=0.001)
    assert engine.arrive(1) == 1
    engine.answer()
    return engine


def test_before_the_first_answer_all_are_accepted() -> None:
    assert Engine(seconds=1.0).arrive(100_000) == 100_000


def test_a_burst_may_wait_a_quarter_of_the_deadline(engine: Engine) -> None:
    assert engine.arrive(10_000) == 250
    engine.answer(20)
    assert engine.arrive(10_000) == 20
    assert not engine.admission.has_room(PATIENCE / 2)
    assert engine.admission.has_room(PATIENCE * 2)


def test_recalls_that_are_about_to_come_count(engine: Engine) -> None:
    assert engine.admission.has_room(PATIENCE, arriving=249)
    assert not engine.admission.has_room(PATIENCE, arriving=250)


def test_a_queue_that_stands_is_cut_to_what_keeps_the_engine_busy(engine: Engine) -> None:
    engine.arrive(5 * ENOUGH)
    while not engine.admission.overloaded:
        assert engine.clock.now < 101
        engine.answer()
        engine.arrive(5)
    assert engine.clock.now - 100 >= STANDING_SECONDS
    answered = 0
    while engine.admission.under_way > ENOUGH:  # those that were accepted are answered
        assert engine.arrive(5) == 0
        engine.answer()
    for _ in range(5000):
        engine.answer()
        answered += engine.arrive(5)
        assert engine.admission.under_way <= ENOUGH
    assert answered >= 4999


def test_an_overload_lasts_while_the_queue_is_empty_now_and_then(engine: Engine) -> None:
    """A front end that comes to its turn late answers all before others arrive."""
    engine.arrive(200)
    engine.answer(200)
    assert engine.admission.overloaded
    for _ in range(500):
        assert engine.arrive(50) == ENOUGH
        engine.answer(ENOUGH)
    assert engine.admission.overloaded


def test_room_for_bursts_is_back_when_hardly_any_recall_is_refused(engine: Engine) -> None:
    engine.arrive(200)
    engine.answer(200)
    for _ in range(140):  # 0.84 s
        assert engine.admission.overloaded
        engine.arrive(6)
        engine.answer(6)
    for _ in range(20):  # 0.2 s; one in a hundred is refused
        engine.arrive(ENOUGH + 1)
        engine.answer(ENOUGH)
    assert not engine.admission.overloaded
    assert engine.arrive(200) == 200


def test_a_burst_that_is_gone_in_time_is_no_overload(engine: Engine) -> None:
    for _ in range(20):
        engine.arrive(ENOUGH + 80)
        while engine.admission.under_way:
            engine.answer()
            assert not engine.admission.overloaded


def test_while_the_engine_is_away_recalls_wait_for_the_next_one(engine: Engine) -> None:
    engine.arrive(2 * ENOUGH)
    engine.answer()
    engine.clock.now += 5
    assert engine.arrive(200) == 200


def test_an_engine_that_becomes_slow_is_noticed(engine: Engine) -> None:
    engine.seconds = 0.01
    for _ in range(200):
        engine.arrive(1)
        engine.answer()
    assert 22 <= engine.arrive(10_000) <= 28


def test_a_slow_engine_is_kept_busy_by_two_micro_batches(engine: Engine) -> None:
    engine.seconds = 0.05
    for _ in range(200):
        engine.arrive(1)
        engine.answer()
    engine.arrive(5)
    while not engine.admission.overloaded:
        assert engine.clock.now < 120
        engine.answer()
        engine.arrive(5)
    while engine.admission.under_way > 2:
        engine.answer()
    assert engine.arrive(5) == 0
    engine.answer()
    assert engine.arrive(5) == 1


def test_a_client_below_its_share_is_let_in(engine: Engine) -> None:
    engine.arrive(10_000, client="greedy")
    assert engine.arrive(10_000, client="modest") == 125  # half of 250
    assert engine.arrive(10_000, client="third") == 84
    assert engine.arrive(1, client="greedy") == engine.arrive(1, client="modest") == 0
    assert engine.arrive(1) == 0  # one without a name has no share
    engine.answer(125, client="modest")
    engine.answer(84, client="third")
    engine.answer(150, client="greedy")
    assert engine.admission._by_client == {"greedy": 100}
