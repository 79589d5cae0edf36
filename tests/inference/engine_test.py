"""The engine: whatever happens around it, a request gets what it would get alone; nobody waits for ever."""

import dataclasses
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.inference import decode, slot_programs, slots
from llm.inference import engine as engine_module
from llm.inference.engine import Engine, EngineStopped, QueueFull, Request
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.tokenizer import train

TOKENIZER = train(TokenizerConfig(kind='byte'), 272, [])
GREEDY = SamplingParams(temperature=0.0)
WAIT = 30  # seconds after which something that does not come is taken for a deadlock
SETTINGS = [
    GREEDY,
    SamplingParams(seed=3),
    SamplingParams(temperature=0.7, top_k=5, seed=4),
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(top_p=0.8, min_p=0.02, repetition_penalty=1.1, seed=5),
]
PROGRAMS = (slot_programs.read, slot_programs.write, slot_programs.open_slot, slot_programs.create)


SLOTS = 8  # programs for 2 and for 8 of them


def speaker(tiny, **overrides):
    """Writes mostly a, b, c and the bytes of € and 😀: whole, broken and unfinished characters; at times it ends."""
    model, params = tiny(**{'vocab_size': 272, 'tied_embeddings': False, 'biases': ('lm_head',)} | overrides)
    bias = np.zeros(272, np.float32)
    bias[[16 + b for b in 'abc€😀'.encode()]] = 10
    bias[TOKENIZER.eos_id] = 8
    params = {**params, 'lm_head': {**params['lm_head'], 'bias': jnp.asarray(bias)}}
    return model, params


@pytest.fixture(scope='module')
def spoken(tiny):
    return speaker(tiny, context_length=64, num_kv_heads=2, windows=(5, None))


@pytest.fixture(scope='module')
def generator(spoken):
    return Generator(*spoken, TOKENIZER)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Pieces of 4 and 16 tokens and slots of 16 and 64, where a real engine has hundreds; `alone` has one size."""
    bucket = decode.bucket
    monkeypatch.setattr(decode, 'bucket', lambda size, most: bucket(size, most) if most == 2**30 else most)
    monkeypatch.setattr(slots, 'SMALLEST_PIECE', 4)
    monkeypatch.setattr(slots, 'SMALLEST_LENGTH', 16)


@pytest.fixture
def make(generator):
    """A function that makes engines, which end with the test and leave no thread."""
    made = []

    def engine(source=generator, start=True, **settings):
        found = Engine(source, **{'slots': SLOTS, 'prefill_chunk': 16} | settings)
        made.append(found)
        if start:
            found.start()
        return found

    yield engine
    for found in made:
        stop_in_time(found, drain=False)
    assert not [thread for thread in threading.enumerate() if thread.name == 'engine']


def stop_in_time(engine, **settings):
    thread = threading.Thread(target=engine.stop, kwargs=settings, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive(), 'stop() does not return'


class Gate:
    """Holds the engine's thread where it calls a method of its slots, until it is opened."""

    def __init__(self, engine, name):
        self.reached, self._open = threading.Semaphore(0), threading.Semaphore(0)
        self._always, inner = False, getattr(engine._slots, name)

        def gated(*arguments):
            if not self._always:
                self.reached.release()
                assert self._open.acquire(timeout=WAIT)
            return inner(*arguments)

        setattr(engine._slots, name, gated)

    def wait(self):
        assert self.reached.acquire(timeout=WAIT), 'the engine does not get here'

    def step(self):
        """Lets one call through, and waits for the next."""
        self._open.release()
        self.wait()

    def open(self):
        self._always = True
        self._open.release()


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, 'it does not happen'
        time.sleep(0.001)


def prompt(length, seed=0):
    """Ids of a prompt of a length, <bos> included."""
    return [TOKENIZER.bos_id, *np.random.default_rng([seed, length]).integers(16, 272, length - 1).tolist()]


def request(length=5, count=12, sampling=GREEDY, seed=0, **settings):
    return Request(prompt(length, seed), sampling, count, **settings)


def lasting(generator, number, length, count):
    """Requests that no token ends early."""
    asked = (request(length, count, SamplingParams(seed=seed), seed) for seed in range(1000))
    return list(itertools.islice((one for one in asked if len(alone(generator, one).ids) == count), number))


def alone(generator, asked):
    (found,) = generator.generate([asked.prompt], asked.sampling, max_new_tokens=asked.max_new_tokens, stop=asked.stop)
    return found


def assert_as_alone(generator, asked, found):
    expected = alone(generator, asked)
    assert (found.ids, found.text, found.finish_reason) == (expected.ids, expected.text, expected.finish_reason)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


def assert_beginning(generator, asked, found):
    """What a request got that was ended from outside."""
    expected = alone(generator, asked)
    size = len(found.ids)
    assert found.ids == expected.ids[:size]
    np.testing.assert_allclose(found.logprobs, expected.logprobs[:size], atol=1e-5, rtol=0)


def mixed(number, longest=64):
    """Requests of any length and setting, some of them with stop strings."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(number):
        length = int(rng.integers(1, longest - 8))
        count = int(rng.integers(1, min(24, longest - length + 1) + 1))
        sampling = dataclasses.replace(SETTINGS[i % len(SETTINGS)], seed=i)
        stop = ((), (), ('bc', 'ab€'))[i % 3]
        found.append(request(length, count, sampling, seed=i, stop=stop, top_logprobs=(0, 0, 3, 20)[i % 4]))
    return found


def test_any_mix_of_requests_gets_what_each_would_get_alone(generator, make):
    """Arrivals from several threads at any time, cancellations among them; and nothing is compiled meanwhile."""
    engine = make(max_queue=100)
    programs = [program._cache_size() for program in PROGRAMS]
    asked = mixed(60)
    handles = [None] * len(asked)

    def client(number):
        rng = np.random.default_rng(number)
        for i in range(number, len(asked), 4):
            time.sleep(rng.exponential(0.002))
            handles[i] = engine.submit(asked[i])
            if i % 7 == 3:
                time.sleep(rng.exponential(0.004))
                handles[i].cancel()

    clients = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(WAIT)
    found = [handle.result(WAIT) for handle in handles]
    assert [program._cache_size() for program in PROGRAMS] == programs
    for i, (one, completion) in enumerate(zip(asked, found)):
        if completion.finish_reason == 'cancelled':
            assert i % 7 == 3
            assert_beginning(generator, one, completion)
        else:
            assert_as_alone(generator, one, completion)
    assert {c.finish_reason for c in found} >= {'stop_token', 'stop_string', 'length'}
    assert any('€' in c.text for c in found)
    statistics = engine.statistics()
    cancelled = sum(c.finish_reason == 'cancelled' for c in found)
    assert (statistics.queued, statistics.running, statistics.refused, statistics.failed) == (0, 0, 0, 0)
    assert (statistics.accepted, statistics.cancelled) == (60, cancelled)
    assert statistics.completed == 60 - cancelled


@pytest.mark.parametrize(
    'overrides',
    [{'position': 'learned', 'norm': 'layernorm', 'activation': 'gelu'}, {'position': 'alibi', 'num_kv_heads': 1}],
    ids=str,
)
def test_any_architecture_and_a_context_that_no_piece_divides(tiny, make, overrides, full_logprobs, monkeypatch):
    monkeypatch.setattr(slots, 'SMALLEST_PIECE', 16)  # 62 tokens of a prompt take 64 places
    monkeypatch.setattr(slots, 'SMALLEST_LENGTH', 64)
    model, params = speaker(tiny, context_length=62, **overrides)
    engine = make(Generator(model, params, TOKENIZER), slots=2)
    asked = [request(length, 63 - length, seed=length) for length in (44, 60, 50, 62)]
    for one, handle in zip(asked, [engine.submit(one) for one in asked]):
        found = handle.result(WAIT)
        rows = full_logprobs(model, params, [*one.prompt, *found.ids[:-1]])[len(one.prompt) - 1 :]
        assert found.ids == np.argmax(rows, axis=-1).tolist()
        np.testing.assert_allclose(found.logprobs, rows.max(axis=-1), atol=1e-5, rtol=0)
        assert len(found.ids) == 63 - len(one.prompt) or found.finish_reason == 'stop_token'


def test_a_prompt_of_one_token_and_one_that_fills_the_context(generator, make):
    engine = make()
    for one in (request(1, 64), request(64, 1), request(1, 1), request(63, 2), request(17, 48)):
        assert_as_alone(generator, one, engine.submit(one).result(WAIT))


def test_events_join_to_the_whole(generator, make):
    engine = make()
    for one in mixed(12):
        handle = engine.submit(one)
        events = list(handle)
        whole = handle.result(WAIT)
        assert ''.join(event.text for event in events) == whole.text
        assert [token for event in events for token in event.ids] == whole.ids
        assert [x for event in events for x in event.logprobs] == whole.logprobs
        assert all(event.ids for event in events[:-1])
        assert all(len(event.ids) == len(event.logprobs) == len(event.top) for event in events)
        assert handle.finish_reason == whole.finish_reason
        assert handle.error is None
        if len(whole.ids) > 2 * slots.MOST_STEPS:
            assert len(events) > 1


def test_the_most_probable_tokens_at_each_place(spoken, make, full_logprobs):
    engine = make(start=False)
    handles = [engine.submit(request(6, 9, SamplingParams(seed=2), top_logprobs=number)) for number in (20, 3, 0)]
    engine.start()
    for handle, number in zip(handles, (20, 3, 0)):
        whole = handle.result(WAIT)
        top = [best for event in handle for best in event.top]
        expected = full_logprobs(*spoken, [*handle.prompt, *whole.ids[:-1]])
        for at, best in enumerate(top):
            row = expected[len(handle.prompt) - 1 + at]
            assert [token for token, _ in best] == np.argsort(-row, kind='stable')[:number].tolist()
            np.testing.assert_allclose([logprob for _, logprob in best], np.sort(row)[::-1][:number], atol=1e-5)
        assert len(top) == len(whole.ids)


def test_what_a_slot_held_before_does_not_show(generator, make):
    engine = make(start=False)
    engine._slots.reset()
    engine._slots.warm_up()
    poisoned = jax.tree.map(
        lambda x: jnp.full_like(x, jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 1), engine._slots._state
    )
    engine._slots._state = poisoned
    engine._slots.reset = engine._slots.warm_up = lambda: None
    engine.start()
    asked = [request(length, 20, sampling) for length, sampling in zip((1, 30, 5, 12, 40, 20, 3, 9), SETTINGS * 2)]
    for one, handle in zip(asked, [engine.submit(one) for one in asked]):
        assert_as_alone(generator, one, handle.result(WAIT))


def test_a_long_prompt_is_read_in_pieces_while_others_write(generator, make):
    engine = make(prefill_chunk=4)
    log = []
    for name in ('read', 'write'):
        inner = getattr(engine._slots, name)
        setattr(engine._slots, name, lambda *a, name=name, inner=inner: log.append((name, a[0])) or inner(*a))
    gate = Gate(engine, 'write')
    writer = engine.submit(request(3, 60, SamplingParams(temperature=0.5, seed=8)))
    gate.wait()
    log.clear()
    long, short = engine.submit(request(50, 4)), engine.submit(request(9, 4))
    gate.open()
    for handle in (writer, long, short):
        assert_as_alone(generator, handle.request, handle.result(WAIT))
    names = ''.join(name[0] for name, _ in log)
    assert 'rr' not in names  # between two pieces of 4 tokens there is a step of the others
    # The pieces of the two prompts take turns, so that the short one, which came last, is written first.
    readers = [slot for name, slot in log if name == 'r' or name == 'read']
    assert readers[:4] == [readers[0], readers[1]] * 2
    assert readers[0] != readers[1]


def test_who_waits_is_not_written_over(generator, make):
    """A prompt of which more is read than the programs of the others see, beside them in their programs."""
    engine = make()
    gate = Gate(engine, 'write')
    (one,) = lasting(generator, 1, 2, 40)
    writer = engine.submit(one)
    gate.wait()
    reader = engine.submit(request(64, 1))
    for _ in range(3):
        gate.step()
    assert (engine._slots._held[0], engine._slots._held[1]) == (13, 48)
    gate.open()
    for handle in (writer, reader):
        assert_as_alone(generator, handle.request, handle.result(WAIT))


def test_a_full_queue_refuses(generator, make):
    engine = make(start=False, max_queue=SLOTS)
    gate = Gate(engine, 'write')
    running = [engine.submit(request(seed=seed)) for seed in range(SLOTS)]
    engine.start()
    gate.wait()
    waiting = [engine.submit(request(seed=seed)) for seed in range(SLOTS, 2 * SLOTS)]
    with pytest.raises(QueueFull, match='8 requests wait already, and no more may; try again later'):
        engine.submit(request())
    assert dataclasses.asdict(engine.statistics()).items() >= {'queued': 8, 'running': 8, 'refused': 1}.items()
    gate.open()
    for handle in (*running, *waiting):
        assert_as_alone(generator, handle.request, handle.result(WAIT))
    assert_as_alone(generator, request(), engine.submit(request()).result(WAIT))


def test_who_gets_a_slot_at_once_does_not_wait_in_the_queue(make):
    engine = make(start=False, max_queue=1)
    for seed in range(SLOTS + 1):
        engine.submit(request(seed=seed))
    with pytest.raises(QueueFull):
        engine.submit(request())


@pytest.mark.parametrize('ending', ['cancelled', 'deadline'])
@pytest.mark.parametrize('phase', ['queued', 'reading', 'writing'])
def test_ended_from_outside_in_any_phase(generator, make, phase, ending, monkeypatch):
    """It ends at the next turn with what it has; the others are not disturbed, and its slot serves again."""
    engine = make(start=False, prefill_chunk=4)
    gate = Gate(engine, 'write')
    others = [engine.submit(one) for one in lasting(generator, SLOTS - (phase != 'queued'), 3, 62)]
    (one,) = lasting(generator, 1, *((3, 62) if phase == 'writing' else (50, 15)))
    one = engine.submit(dataclasses.replace(one, timeout=1e6))
    engine.start()
    gate.wait()
    for _ in range(10):  # a turn reads 4 tokens and writes 4
        gate.step()
    assert engine.statistics().queued == (phase == 'queued')
    assert [row.handle for row in engine._reading] == [one] * (phase == 'reading')
    assert one.finish_reason is None
    if ending == 'cancelled':
        thread = threading.Thread(target=one.cancel)
        thread.start()
        thread.join(WAIT)
    else:
        one.deadline = time.monotonic()
    gate.step()
    assert one.finish_reason == ending
    found = one.result(WAIT)
    assert bool(found.ids) == (phase == 'writing')
    assert_beginning(generator, one.request, found)
    after = engine.submit(request(30, 8, timeout=1e6))
    gate.open()
    for handle in (*others, after):
        assert_as_alone(generator, handle.request, handle.result(WAIT))
    counts = engine.statistics()
    assert (counts.cancelled, counts.expired) == ((1, 0) if ending == 'cancelled' else (0, 1))


def test_time_runs_from_when_it_was_submitted(make):
    engine = make()
    gate = Gate(engine, 'write')
    other, late = engine.submit(request(3, 40)), engine.submit(request(3, 40, timeout=0.01))
    gate.wait()
    time.sleep(0.02)
    gate.open()
    assert late.result(WAIT).finish_reason == 'deadline'
    assert other.result(WAIT).finish_reason in ('length', 'stop_token')


def test_to_cancel_what_has_ended_changes_nothing(generator, make):
    handle = make().submit(request())
    found = handle.result(WAIT)
    handle.cancel()
    assert handle.result(WAIT) == found
    assert handle.finish_reason != 'cancelled'


@pytest.mark.parametrize('drain', [True, False])
def test_stop(generator, make, drain):
    engine = make(start=False)
    gate = Gate(engine, 'write')
    handles = [engine.submit(one) for one in lasting(generator, SLOTS + 2, 7, 30)]
    engine.start()
    gate.wait()
    thread = threading.Thread(target=engine.stop, kwargs={'drain': drain}, daemon=True)
    thread.start()
    until(lambda: engine._stopped)
    with pytest.raises(EngineStopped, match='stopped'):
        engine.submit(request())
    gate.open()
    thread.join(WAIT)
    assert not thread.is_alive()
    for handle in handles:
        found = handle.result(0)
        if drain:
            assert_as_alone(generator, handle.request, found)
        else:
            assert found.finish_reason == 'cancelled'
            assert_beginning(generator, handle.request, found)
    stop_in_time(engine)  # a second time


def test_stop_waits_no_longer_than_it_is_told(generator, make):
    engine = make()
    gate = Gate(engine, 'write')
    handles = [engine.submit(one) for one in lasting(generator, 2, 5, 40)]
    gate.wait()
    thread = threading.Thread(target=engine.stop, kwargs={'timeout': 0.05}, daemon=True)
    thread.start()
    time.sleep(0.1)
    gate.open()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert [handle.result(0).finish_reason for handle in handles] == ['cancelled', 'cancelled']


def test_stop_before_start(make):
    engine = make(start=False)
    handle = engine.submit(request())
    stop_in_time(engine)
    assert handle.result(0).finish_reason == 'cancelled'
    assert list(handle) == []


@pytest.mark.parametrize('phase', ['open', 'read', 'write'])
def test_an_exception_fails_what_is_in_the_slots_and_the_engine_goes_on(generator, make, phase, monkeypatch):
    engine = make(start=False)
    inner, calls = getattr(engine._slots, phase), []

    def broken(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError('no memory\nand a trace')
        return inner(*arguments)

    monkeypatch.setattr(engine._slots, phase, broken)
    handles = [
        engine.submit(request(length, 20, SamplingParams(seed=length)))
        for length in (20, 6, 9, 30, 12, 8, 3, 5, 31, 16)
    ]
    engine.start()
    found = [handle.result(WAIT) for handle in handles]
    lost = 2 if phase == 'open' else SLOTS  # had a slot
    for handle, completion in zip(handles[:lost], found):
        assert completion.finish_reason == handle.finish_reason == 'error'
        assert handle.error == (
            'the engine failed while it served this request (RuntimeError: no memory); send it again'
        )
    for handle, completion in zip(handles[lost:], found[lost:]):
        assert_as_alone(generator, handle.request, completion)
    assert engine.statistics().failed == lost


def test_an_engine_that_cannot_start_afresh_leaves_nobody_waiting(make, monkeypatch):
    engine = make(start=False)
    handles = [engine.submit(request(length)) for length in range(5, 15)]
    gate = Gate(engine, 'write')
    engine.start()
    gate.wait()

    def no_memory():
        raise MemoryError('none left')

    monkeypatch.setattr(engine._slots, 'reset', no_memory)
    monkeypatch.setattr(slot_programs, 'write', lambda *a, **k: 1 / 0)
    gate.open()
    assert {handle.result(WAIT).finish_reason for handle in handles} == {'error'}
    until(lambda: engine.failure)
    with pytest.raises(EngineStopped, match=r'the engine broke down \(MemoryError: none left\)'):
        engine.submit(request())


def test_logits_that_are_not_finite_fail_their_request_alone(spoken, make):
    model, params = spoken
    table = params['embedding']['table'].at[200].set(jnp.nan)
    generator = Generator(model, {**params, 'embedding': {'table': table}}, TOKENIZER)
    engine = make(generator, start=False)
    good = [ids for ids in (prompt(length) for length in (20, 30, 12, 3)) if 200 not in ids]
    bad = [*prompt(9), 200, 30, 31]
    asked = [Request(ids, SamplingParams(seed=1), 20) for ids in (good[0], bad, good[1], bad, good[2])]
    handles = [engine.submit(one) for one in asked]
    engine.start()
    for handle, one in zip(handles, asked):
        found = handle.result(WAIT)
        if 200 in one.prompt:
            assert (found.finish_reason, found.ids) == ('error', [])
            assert 'the logits after 0 new tokens are not finite' in handle.error
        else:
            assert_as_alone(generator, one, found)
    assert engine.statistics().failed == 2


def test_subscribers_get_every_event_and_the_end(generator, make):
    engine = make()
    gate = Gate(engine, 'write')
    handle = engine.submit(request(5, 30, SamplingParams(temperature=0.5, seed=3)))
    gate.wait()
    gate.step()
    gate.step()
    got, threads = [], []
    handle.subscribe(lambda event: (got.append(event), threads.append(threading.current_thread().name)))
    assert len(got) == 2  # what was there already
    gate.open()
    whole = handle.result(WAIT)
    until(lambda: got[-1] is None)
    assert ''.join(event.text for event in got[:-1]) == whole.text
    assert set(threads[2:]) == {'engine'}
    late = []
    handle.subscribe(late.append)
    assert late == [None]


def test_a_subscriber_that_fails_ends_its_request_only(generator, make):
    engine = make()
    gate = Gate(engine, 'write')
    gone, other = engine.submit(request(5, 50)), engine.submit(request(6, 30))
    gone.subscribe(lambda event: 1 / 0)
    gate.open()
    assert gone.result(WAIT).finish_reason == 'cancelled'
    assert_as_alone(generator, other.request, other.result(WAIT))


def test_a_subscriber_may_call_the_engine(make):
    engine = make()
    seen = []

    def callback(event):
        handle.cancel()
        seen.append(engine.statistics().running)
        engine.stop(drain=False)  # from its own thread: it cannot wait for itself

    gate = Gate(engine, 'write')
    handle = engine.submit(request(5, 50))
    handle.subscribe(callback)
    gate.open()
    assert handle.result(WAIT).finish_reason == 'cancelled'
    stop_in_time(engine)


def test_text_that_cannot_be_shown_fails_its_request_only(generator, make):
    engine = make()
    broken, other = engine.submit(request(5, 20)), engine.submit(request(6, 20))
    gate = Gate(engine, 'write')

    def fail(*arguments):
        raise ValueError('no such piece')

    broken._transcript.add = fail
    gate.open()
    assert broken.result(WAIT).finish_reason == 'error'
    assert broken.error == 'the text cannot be shown: ValueError: no such piece'
    assert_as_alone(generator, other.request, other.result(WAIT))


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'count': 0}, 'max_new_tokens is 0; ask for at least 1'),
        ({'length': 60, 'count': 10}, "go past the model's context of 64; ask for at most 5 new tokens"),
        ({'length': 30, 'count': 12}, 'do not fit the 40 tokens that the engine keeps for each request'),
        ({'stop': ('a', '')}, 'a stop string is empty'),
        ({'top_logprobs': 21}, 'top_logprobs is 21; ask for 0 to 20'),
        ({'top_logprobs': -1}, 'top_logprobs is -1'),
        ({'timeout': 0.0}, 'timeout is 0.0; it must be positive'),
        ({'timeout': float('nan')}, 'timeout is nan; it must be positive'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(make, settings, message):
    engine = make(start=False, capacity=40)
    with pytest.raises(UserError, match=message) as error:
        engine.submit(request(**settings))
    assert '\n' not in str(error.value)
    assert engine.statistics().accepted == 0


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'slots': 0}, 'slots is 0; it must be at least 1'),
        ({'capacity': 65}, "capacity is 65; it must be from 1 to the model's context, 64"),
        ({'max_queue': 0}, 'max_queue is 0'),
        ({'prefill_chunk': 12}, 'prefill_chunk is 12; it must be a power of two'),
        ({'prefill_chunk': 0}, 'prefill_chunk is 0; it must be a power of two'),
    ],
    ids=str,
)
def test_settings_of_the_engine(generator, settings, message):
    with pytest.raises(UserError, match=message):
        Engine(generator, **settings)


def test_an_engine_starts_once(make):
    engine = make()
    with pytest.raises(RuntimeError, match='starts once'):
        engine.start()


def test_what_is_counted(make):
    engine = make()
    asked = [request(5, 7, SamplingParams(seed=4)), request(20, 3, SamplingParams(seed=1))]
    found = [engine.submit(one).result(WAIT) for one in asked]
    counts = engine.statistics()
    assert counts.prompt_tokens == 25
    assert counts.generated_tokens == sum(len(c.ids) for c in found)
    assert counts.decode_steps == counts.generated_tokens  # one after the other
    assert counts.prefill_seconds > 0
    assert counts.decode_seconds > 0


def test_all_names_can_be_imported_from_the_engine():
    for name in engine_module.__all__:
        assert getattr(engine_module, name)
