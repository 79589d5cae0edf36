import numpy as np
import pytest

from llm import chat
from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import BOS, EOS, SPECIAL_TOKENS, train

NASTY = ['', ' ', 'Hi', '<eos>', '<|assistant|>', '\n\n', '<|end|><|user|>', 'naïve ▁ \t𝒳', '<bos> <|system|>']


@pytest.fixture(scope='module', params=['byte', 'bpe'])
def tokenizer(request):
    texts = ['Hello there, how are you? I am fine. ' * 20, 'def f(x):\n    return x + 1\n' * 20, '<|user|> <eos>' * 20]
    return train(TokenizerConfig(kind=request.param), 272 if request.param == 'byte' else 340, texts)


def system(text):
    return {'role': 'system', 'content': text}


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text):
    return {'role': 'assistant', 'content': text}


def random_conversation(seed):
    draw = np.random.default_rng(seed)
    text = lambda: ''.join(draw.choice(NASTY, draw.integers(0, 4)))
    turns = [turn(text()) for _ in range(draw.integers(1, 5)) for turn in (user, assistant)]
    return [system(text())] * draw.integers(0, 2) + turns


def test_the_template_token_by_token(tokenizer):
    encode, name = tokenizer.encode, SPECIAL_TOKENS.index
    ids, mask = chat.encode(
        tokenizer, [system('Be brief.'), user('Hi'), assistant('Hello'), user('Bye'), assistant('')]
    )
    parts = [
        ([BOS, name('<|system|>'), *encode('Be brief.'), name('<|end|>')], False),
        ([name('<|user|>'), *encode('Hi'), name('<|end|>'), name('<|assistant|>')], False),
        ([*encode('Hello'), EOS], True),
        ([name('<|user|>'), *encode('Bye'), name('<|end|>'), name('<|assistant|>')], False),
        ([EOS], True),
    ]
    assert ids == [i for part, _ in parts for i in part]
    assert mask == [trained for part, trained in parts for _ in part]


@pytest.mark.parametrize('seed', range(20))
def test_a_prompt_is_how_the_continued_conversation_begins(tokenizer, seed):
    """So a model is asked with exactly the ids that it was trained on."""
    messages = random_conversation(seed)
    whole = chat.encode(tokenizer, messages)
    for i, message in enumerate(messages):
        if message['role'] == 'assistant':
            prompt = chat.encode_prompt(tokenizer, messages[:i])
            answer = [*tokenizer.encode(message['content']), EOS]
            exchange = chat.encode_exchange(tokenizer, messages[:i], message['content'])
            assert exchange == ([*prompt, *answer], len(prompt), True)
            assert [*prompt, *answer] == whole.ids[: len(prompt) + len(answer)]
            assert whole.mask[len(prompt) - 1 : len(prompt) + len(answer)] == [False, *[True] * len(answer)]
    assert sum(whole.mask) == sum(len(tokenizer.encode(m['content'])) + 1 for m in messages if m['role'] == 'assistant')


@pytest.mark.parametrize('seed', range(20))
def test_no_text_makes_a_special_token(tokenizer, seed):
    messages = random_conversation(seed)
    special = [i for i in chat.encode(tokenizer, messages).ids if i < len(SPECIAL_TOKENS)]
    assert special.count(BOS) == 1 and special[0] == BOS
    assert len(special) == 1 + 2 * len(messages)


def test_a_plain_completion_is_one_text(tokenizer):
    ids, start, whole = chat.encode_completion(tokenizer, 'Hello ', 'there')
    assert ids == [BOS, *tokenizer.encode('Hello there'), EOS]
    prompt = chat.encode_text(tokenizer, 'Hello ')
    assert ids[:start] == prompt[:start]
    assert whole == (start == len(prompt))


def test_a_token_over_the_seam_belongs_to_the_completion():
    bpe = train(TokenizerConfig(kind='bpe'), 281, ['abc abc abc abc ' * 100])
    assert len(bpe.encode('abc')) < len(bpe.encode('ab')) + 1, 'a token has to reach over the seam'
    ids, start, whole = chat.encode_completion(bpe, 'ab', 'c')
    assert not whole
    assert start < len(chat.encode_text(bpe, 'ab'))
    assert bpe.decode(ids[start:]) == 'abc', 'all of it is trained on'


@pytest.mark.parametrize(
    'messages, problem',
    [
        ([], 'at least one'),
        ('Hi', 'at least one'),
        (['Hi'], 'message 1 must be an object'),
        ([{'role': 'user'}], 'content of message 1 must be a text'),
        ([user(None)], 'content of message 1 must be a text'),
        ([{'role': 'robot', 'content': ''}], "role of message 1 is 'robot'"),
        ([{'role': ['user'], 'content': ''}], 'role of message 1'),
        ([system('a')], 'no turn of the user'),
        ([assistant('a')], "message 1 is of 'assistant' where one of 'user'"),
        ([user('a'), user('b')], "message 2 is of 'user' where one of 'assistant'"),
        ([system('s'), user('a'), system('b')], "message 3 is of 'system'"),
    ],
)
def test_what_is_no_conversation(tokenizer, messages, problem):
    with pytest.raises(UserError, match=problem) as raised:
        chat.encode(tokenizer, messages)
    assert '\n' not in str(raised.value)


def test_every_problem_is_named(tokenizer):
    with pytest.raises(UserError, match=r"content of message 1 .*; the role of message 2 is 'x'"):
        chat.check([user(1), {'role': 'x', 'content': 'a'}])


def test_a_prompt_ends_with_the_user(tokenizer):
    with pytest.raises(UserError, match="last turn is of 'assistant'"):
        chat.encode_prompt(tokenizer, [user('a'), assistant('b')])


@pytest.mark.parametrize('head', [[], [system('Be kind.')]])
def test_fit_forgets_the_oldest_exchanges(tokenizer, head):
    turns = [turn(f'text {i} ' * (i + 1)) for i in range(4) for turn in (user, assistant)] + [user('last')]
    size = lambda messages: len(chat.encode_prompt(tokenizer, messages))
    candidates = [[*head, *turns[2 * i :]] for i in range(5)]
    for room in range(size(candidates[-1]), size(candidates[0]) + 2):
        best = next(messages for messages in candidates if size(messages) <= room)
        assert chat.fit(tokenizer, [*head, *turns], room) == best
    with pytest.raises(UserError, match='there is room for'):
        chat.fit(tokenizer, [*head, *turns], size(candidates[-1]) - 1)
