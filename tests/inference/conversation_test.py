"""A conversation: what the model reads, and what becomes of what it says."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from llm import chat
from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.inference.conversation import Conversation
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.tokenizer import train

TOKENIZER = train(TokenizerConfig(kind='byte'), 272, [])
SAMPLING = SamplingParams(temperature=1.0, seed=5)


@pytest.fixture(scope='module')
def generator(tiny):
    model, params = tiny(vocab_size=272, context_length=64)
    return Generator(model, params, TOKENIZER, chat.stop_ids(TOKENIZER))


@pytest.fixture
def start(generator):
    def start(**settings):
        return Conversation(generator, SAMPLING, **{'max_new_tokens': 8} | settings)

    return start


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text):
    return {'role': 'assistant', 'content': text}


def expected(generator, messages, seed):
    """What a prompt of these messages is answered."""
    sampling = SamplingParams(temperature=1.0, seed=seed)
    (completion,) = generator.generate([chat.encode_prompt(TOKENIZER, messages)], sampling, max_new_tokens=8)
    return completion.text


def test_an_answer_is_drawn_from_all_that_was_said(generator, start):
    talk = start(system='Be.')
    first = ''.join(talk.ask('ab'))
    assert first == expected(generator, [{'role': 'system', 'content': 'Be.'}, user('ab')], seed=5)
    second = ''.join(talk.ask('cd'))
    said = [user('ab'), assistant(first), user('cd')]
    assert second == expected(generator, [{'role': 'system', 'content': 'Be.'}, *said], seed=6)
    assert talk.messages == [*said, assistant(second)]


def test_regenerate_takes_back_the_last_answer_only(generator, start):
    talk = start()
    first = ''.join(talk.ask('ab'))
    old = ''.join(talk.ask('cd'))
    new = ''.join(talk.regenerate())
    said = [user('ab'), assistant(first), user('cd')]
    assert new == expected(generator, said, seed=7) != old
    assert talk.messages == [*said, assistant(new)]


def test_reset_forgets_all_but_the_system_message(generator, start):
    talk = start(system='Be.')
    list(talk.ask('ab'))
    talk.reset()
    assert talk.messages == []
    with pytest.raises(UserError, match='no answer yet'):
        talk.regenerate()
    again = ''.join(talk.ask('cd'))
    assert again == expected(generator, [{'role': 'system', 'content': 'Be.'}, user('cd')], seed=6)


def test_settings_may_change_between_answers(generator, start):
    talk = start()
    list(talk.ask('ab'))
    talk.reset()
    talk.system, talk.sampling = 'No.', SamplingParams(temperature=0.0)
    (greedy,) = generator.generate(
        [chat.encode_prompt(TOKENIZER, [{'role': 'system', 'content': 'No.'}, user('ab')])],
        SamplingParams(temperature=0.0),
        max_new_tokens=8,
    )
    assert ''.join(talk.ask('ab')) == greedy.text


def test_the_oldest_exchanges_are_not_read_when_the_context_is_full(generator, start):
    talk = start(system='Be.')
    for letter in 'abcd':
        list(talk.ask(letter * 8))
    assert talk.forgotten > 0 and talk.forgotten % 2 == 0
    kept = talk.messages[talk.forgotten : -1]
    assert kept[0]['role'] == 'user'
    assert talk.messages[-1]['content'] == expected(generator, [{'role': 'system', 'content': 'Be.'}, *kept], seed=8)
    assert [m['content'] for m in talk.messages[::2]] == [letter * 8 for letter in 'abcd']


def test_what_does_not_fit_alone_was_not_said(start):
    talk = start()
    list(talk.ask('ab'))
    before = list(talk.messages)
    room = talk.room
    with pytest.raises(UserError, match=f'room for {room}'):
        talk.ask('x' * room)
    assert talk.messages == before
    longest = room - len(chat.encode_prompt(TOKENIZER, [user('')]))
    list(talk.ask('x' * longest))  # and this does fit, with all of the answer
    with pytest.raises(UserError):
        talk.ask('x' * (longest + 1))


def test_an_answer_that_is_stopped_stays_as_far_as_it_was_read(generator, start):
    whole = ''.join(start().ask('ab'))
    talk = start()
    pieces = talk.ask('ab')
    read = ''.join(itertools.islice(pieces, 1))
    pieces.close()
    assert whole.startswith(read) and read != whole
    assert talk.messages == [user('ab'), assistant(read)]
    assert ''.join(talk.ask('cd')) == expected(generator, [*talk.messages[:2], user('cd')], seed=6)


@pytest.mark.parametrize('stop', [chat.END, chat.USER])
def test_an_answer_ends_where_the_model_opens_another_turn(tiny, stop):
    model, params = tiny(vocab_size=272, context_length=64, tied_embeddings=False, biases=('lm_head',))
    bias = np.zeros(272, np.float32)
    bias[[stop, 16 + ord('a')]] = 30  # one of the two, at every place
    head = {'kernel': jnp.zeros_like(params['lm_head']['kernel']), 'bias': jnp.asarray(bias)}
    params = {**params, 'lm_head': head}
    talk = Conversation(Generator(model, params, TOKENIZER, chat.stop_ids(TOKENIZER)), SAMPLING, max_new_tokens=32)
    answers = {''.join(talk.regenerate() if talk.messages else talk.ask('b')) for _ in range(8)}
    assert all(set(answer) <= {'a'} and len(answer) < 32 for answer in answers)
    assert len(answers) > 1


@pytest.mark.parametrize('most', [0, 33])
def test_answers_leave_half_of_the_context_to_questions(start, most):
    with pytest.raises(UserError, match='ask for 1 to 32'):
        start(max_new_tokens=most)
    assert start(max_new_tokens=None).room == 33
