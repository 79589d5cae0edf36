"""What the `openai` client sees."""

import concurrent.futures
import functools
import itertools

import openai
import pytest
from scripted_engine import ScriptedEngine, script, wait_for

from llm import chat


@pytest.fixture(scope='module')
def client(server):
    return openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)


def written(generator, prompt, seed, tokens):
    """The text of so many tokens after a prompt; an unfinished character is shown as U+FFFD."""
    ids = generator.encode(prompt)
    return bytes(itertools.islice(script(ids, seed), tokens)).decode('utf-8', 'replace')


def test_completion(client, generator):
    answer = client.completions.create(model='tiny', prompt='def f(', max_tokens=20, seed=3)
    assert answer.object == 'text_completion' and answer.model == 'tiny'
    assert answer.choices[0].text == written(generator, 'def f(', 3, 20)
    assert answer.choices[0].finish_reason == 'length'
    prompt = len(generator.encode('def f('))
    assert answer.usage.prompt_tokens == prompt and answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == prompt + 20


def test_the_default_is_sixteen_tokens(client):
    assert client.completions.create(model='tiny', prompt='x').usage.completion_tokens == 16


def test_streamed_pieces_join_to_the_whole(client, generator):
    stream = client.completions.create(
        model='tiny', prompt='a', max_tokens=41, seed=1, n=2, stream=True, stream_options={'include_usage': True}
    )
    texts, reasons, usages = ['', ''], [None, None], []
    for chunk in stream:
        if chunk.usage:
            usages.append(chunk.usage)
            assert chunk.choices == []
        for choice in chunk.choices:
            assert reasons[choice.index] is None
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [written(generator, 'a', seed, 41) for seed in (1, 2)]
    assert reasons == ['length', 'length']
    assert len(usages) == 1 and usages[0].completion_tokens == 82 and usages[0].prompt_tokens == 2


def test_chat(client, generator):
    messages = [{'role': 'developer', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi'}]
    answer = client.chat.completions.create(model='tiny', messages=messages, max_completion_tokens=12, seed=0)
    ids = chat.encode_prompt(generator.tokenizer, [{'role': 'system', 'content': 'Be brief.'}, messages[1]])
    choice = answer.choices[0]
    assert answer.object == 'chat.completion' and choice.message.role == 'assistant'
    assert choice.message.content == written(generator, ids, 0, 12) and choice.finish_reason == 'length'
    assert answer.usage.prompt_tokens == len(ids) and answer.usage.completion_tokens == 12


def test_an_answer_is_sent_back_as_it_came_and_content_may_come_in_parts(client, generator):
    first = client.chat.completions.create(model='tiny', messages=[{'role': 'user', 'content': 'Hi'}], max_tokens=5)
    parts = [{'type': 'text', 'text': 'and '}, {'type': 'text', 'text': 'now?'}]
    messages = [{'role': 'user', 'content': 'Hi'}, first.choices[0].message, {'role': 'user', 'content': parts}]
    answer = client.chat.completions.create(model='tiny', messages=messages, max_tokens=8, seed=5)
    said = [
        {'role': 'user', 'content': 'Hi'},
        {'role': 'assistant', 'content': first.choices[0].message.content},
        {'role': 'user', 'content': 'and now?'},
    ]
    ids = chat.encode_prompt(generator.tokenizer, said)
    assert answer.choices[0].message.content == written(generator, ids, 5, 8)


def test_chat_streams(client, generator):
    messages = [{'role': 'user', 'content': 'Hi'}]
    stream = client.chat.completions.create(model='tiny', messages=messages, max_tokens=30, seed=2, n=2, stream=True)
    roles, texts, reasons = [[], []], ['', ''], [[], []]
    for chunk in stream:
        assert chunk.object == 'chat.completion.chunk' and chunk.usage is None
        (choice,) = chunk.choices
        roles[choice.index].append(choice.delta.role)
        texts[choice.index] += choice.delta.content or ''
        reasons[choice.index].append(choice.finish_reason)
    ids = chat.encode_prompt(generator.tokenizer, messages)
    assert texts == [written(generator, ids, seed, 30) for seed in (2, 3)]
    for role, reason in zip(roles, reasons):
        assert role[0] == 'assistant' and not any(role[1:])
        assert reason[-1] == 'length' and not any(reason[:-1])


def test_an_answer_without_a_limit_ends_where_the_server_ends_it(start, generator):
    with start(max_new_tokens=50) as server:
        client = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)
        messages = [{'role': 'user', 'content': 'Hi'}]
        answer = client.chat.completions.create(model='tiny', messages=messages)
        assert answer.usage.completion_tokens == 50
        long = [{'role': 'user', 'content': 'x' * 4070}]
        answer = client.chat.completions.create(model='tiny', messages=long)
        room = generator.model.config.context_length - answer.usage.prompt_tokens + 1
        assert answer.usage.completion_tokens == room < 50


def test_choices_have_the_seeds_that_follow_each_other(client):
    create = lambda **more: client.completions.create(model='tiny', prompt=['a', 'b'], max_tokens=24, **more)
    texts = lambda answer: [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]
    two, again, alone = create(n=2, seed=7), create(n=2, seed=7), create(seed=8)
    assert len(set(texts(two))) == 4
    assert texts(two) == texts(again)
    assert texts(two)[1::2] == texts(alone)  # the second text of each prompt is what its seed gives alone
    assert texts(create()) != texts(create())  # without a seed, each request has its own
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.usage.prompt_tokens == 4 and two.usage.completion_tokens == 96


def test_prompts_of_ids_and_echo(client, generator):
    ids = generator.encode('héllo')
    as_ids = client.completions.create(model='tiny', prompt=ids, max_tokens=10, seed=0, echo=True)
    as_text = client.completions.create(model='tiny', prompt='héllo', max_tokens=10, seed=0, echo=True)
    several = client.completions.create(model='tiny', prompt=[ids, ids[:2]], max_tokens=10, seed=0)
    assert as_ids.choices[0].text == as_text.choices[0].text == 'héllo' + written(generator, ids, 0, 10)
    assert [c.text for c in several.choices] == [written(generator, p, 0, 10) for p in (ids, ids[:2])]
    pieces = client.completions.create(model='tiny', prompt='héllo', max_tokens=10, seed=0, echo=True, stream=True)
    assert ''.join(chunk.choices[0].text for chunk in pieces) == as_text.choices[0].text


@pytest.mark.parametrize('stream', [False, True])
def test_stop_strings(client, generator, stream):
    whole = written(generator, 'q', 4, 60)
    stop = whole[9:12]
    answer = client.completions.create(
        model='tiny', prompt='q', max_tokens=60, seed=4, stop=['nowhere', stop], stream=stream
    )
    parts = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert ''.join(part.text for part in parts) == whole[: whole.index(stop)]
    assert parts[-1].finish_reason == 'stop'


@pytest.mark.parametrize('stream', [False, True])
def test_log_probabilities_of_texts(client, generator, stream):
    answer = client.completions.create(model='tiny', prompt='q', max_tokens=16, seed=1, logprobs=2, stream=stream)
    parts = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    reports = [part.logprobs for part in parts]
    ids = list(itertools.islice(script(generator.encode('q'), 1), 16))
    names = [chr(i) if i < 128 else f'bytes:\\x{i:02x}' for i in ids]
    assert list(itertools.chain(*(report.tokens for report in reports))) == names
    assert list(itertools.chain(*(report.token_logprobs for report in reports))) == [-0.5] * 16
    top = list(itertools.chain(*(report.top_logprobs or [] for report in reports)))
    assert [row[name] for row, name in zip(top, names)] == [-0.5] * 16 and {len(row) for row in top} == {2}
    offsets = list(itertools.chain(*(report.text_offset for report in reports)))
    text = bytes(ids).decode('utf-8', 'replace')
    assert all(text[offset] == name for offset, name in zip(offsets, names) if len(name) == 1)


@pytest.mark.parametrize('stream', [False, True])
def test_log_probabilities_of_answers(client, generator, stream):
    messages = [{'role': 'user', 'content': 'Hi'}]
    answer = client.chat.completions.create(
        model='tiny', messages=messages, max_tokens=24, seed=1, logprobs=True, top_logprobs=3, stream=stream
    )
    reports = [c.choices[0].logprobs for c in answer] if stream else [answer.choices[0].logprobs]
    tokens = [token for report in reports if report for token in report.content]
    ids = chat.encode_prompt(generator.tokenizer, messages)
    assert bytes(itertools.chain(*(token.bytes for token in tokens))).decode('utf-8', 'replace') == written(
        generator, ids, 1, 24
    )
    assert all(token.logprob == -0.5 for token in tokens)
    assert all([other.logprob for other in token.top_logprobs] == [-0.5, -1.5, -2.5] for token in tokens)


def test_alternatives_are_asked_for_by_number(client):
    answer = client.completions.create(model='tiny', prompt='q', max_tokens=3, logprobs=0)
    assert answer.choices[0].logprobs.top_logprobs is None and len(answer.choices[0].logprobs.tokens) == 3
    answer = client.completions.create(model='tiny', prompt='q', max_tokens=3)
    assert answer.choices[0].logprobs is None


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == 'tiny' and model.owned_by == 'glassbox'
    assert client.models.retrieve('tiny').id == 'tiny'
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve('gpt-9')
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        client.completions.create(model='gpt-9', prompt='x')


@pytest.mark.parametrize(
    'wrong, says',
    [
        ({'n': 9}, '--max-choices'),
        ({'max_tokens': 4000}, '--max-new-tokens'),
        ({'max_tokens': 0}, 'max_tokens'),
        ({'temperature': -1}, 'temperature'),
        ({'top_p': 0}, 'top_p'),
        ({'logprobs': 6}, 'logprobs'),
        ({'stop': ['x'] * 17}, 'stop must be'),
        ({'stop': ''}, 'stop must be'),
        ({'echo': True, 'logprobs': 1}, 'echo with logprobs'),
        ({'suffix': 'x'}, 'suffix is not served'),
        ({'best_of': 2}, 'best_of is not served'),
        ({'frequency_penalty': 0.5}, 'frequency_penalty is not served'),
        ({'logit_bias': {'5': 1}}, 'logit_bias is not served'),
        ({'extra_body': {'topk': 3}}, "no parameter 'topk'"),
        ({'extra_body': {'top_k': 'x'}}, 'top_k'),
        ({'prompt': {'a': 1}}, 'prompt must be'),
        ({'prompt': [1, 'a']}, 'prompt must be'),
        ({'prompt': []}, 'no tokens'),
        ({'prompt': [[1], []]}, 'no tokens'),
        ({'prompt': [272]}, 'token id 272'),
        ({'prompt': [2**40]}, 'prompt must be'),
        ({'prompt': [True]}, 'prompt must be'),
        ({'prompt': ['x', None]}, 'prompt must be'),
        ({'prompt': [[1], 'x', [1.5]]}, 'prompt must be'),
        ({'prompt': 'x' * 5000}, 'do not fit the context of 4096'),
        ({'seed': -1}, 'seed'),
        ({'stream_options': {'include_usage': True}}, 'needs stream'),
    ],
)
def test_what_is_not_served_is_refused_in_one_line(client, wrong, says):
    arguments = {'model': 'tiny', 'prompt': 'x', 'max_tokens': 3} | wrong
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        client.completions.create(**arguments)
    error = caught.value.body
    assert set(error) == {'message', 'type', 'param', 'code'} and error['type'] == 'invalid_request_error'
    assert '\n' not in error['message'] and 'Traceback' not in error['message']


def test_a_report_too_large_is_refused(client):
    ask = lambda n: client.chat.completions.create(
        model='tiny', messages=[{'role': 'user', 'content': 'x'}], n=n, max_tokens=2048, logprobs=True, top_logprobs=20
    )
    assert len(ask(1).choices[0].logprobs.content) == 2048
    with pytest.raises(openai.BadRequestError, match='log-probabilities are more than'):
        ask(8)


def test_a_text_too_long_has_the_code_that_clients_know(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model='tiny', prompt='x' * 5000)
    assert caught.value.code == 'context_length_exceeded'


@pytest.mark.parametrize(
    'messages, says',
    [
        ([], 'messages'),
        ([{'role': 'user'}], 'content'),
        ([{'role': 'wizard', 'content': 'x'}], 'role'),
        ([{'role': 'tool', 'content': 'x', 'tool_call_id': 'a'}], 'tool_call_id'),
        ([{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {'url': 'x'}}]}], 'messages.0'),
        ([{'role': 'assistant', 'content': 'x'}], 'user'),
        ([{'role': 'user', 'content': 'x'}, {'role': 'user', 'content': 'y'}], 'take turns'),
        ([{'role': 'user', 'content': 'x', 'name': 'bob'}], 'name'),
    ],
)
def test_conversations_that_cannot_be_answered(client, messages, says):
    with pytest.raises(openai.BadRequestError, match=says):
        client.chat.completions.create(model='tiny', messages=messages)


def test_what_asks_for_nothing_may_be_said(client, generator):
    answer = client.completions.create(
        model='tiny', prompt='a', max_tokens=8, seed=0, frequency_penalty=0, presence_penalty=0.0, best_of=1, user='me'
    )
    assert answer.choices[0].text == written(generator, 'a', 0, 8)


def test_a_text_that_fails_is_an_error_and_not_a_short_text(client):
    with pytest.raises(openai.InternalServerError, match='not a number'):
        client.completions.create(model='tiny', prompt='!')
    with pytest.raises(openai.APIStatusError, match='longer than') as caught:
        client.completions.create(model='tiny', prompt='?')
    assert caught.value.status_code == 504
    with pytest.raises(openai.APIError, match='not a number'):
        list(client.completions.create(model='tiny', prompt='!', stream=True))
    # Of several texts one fails: nothing is passed off as the whole.
    with pytest.raises(openai.InternalServerError, match='not a number'):
        client.completions.create(model='tiny', prompt=['a', '!'], max_tokens=200)


def test_a_full_queue_is_told_with_the_time_to_come_back(start, generator):
    engine = ScriptedEngine(generator, slots=1, max_queue=2, delay=0.02)
    with start(engine, max_exchanges=9) as server:
        client = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)
        create = functools.partial(client.completions.create, model='tiny', prompt='x', max_tokens=40)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            first = [pool.submit(create)]
            wait_for(lambda: engine.statistics().running == 1)
            first.append(pool.submit(create))
            wait_for(lambda: engine.statistics().queued == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                create(n=2)  # there is a place for one
            assert int(caught.value.response.headers['retry-after']) >= 1
            assert engine.handles[-1].cancelled  # which nobody would read
            wait_for(lambda: engine.statistics().queued == 1)
            first.append(pool.submit(create))
            wait_for(lambda: engine.statistics().queued >= 2)
            with pytest.raises(openai.RateLimitError):
                create()
            patient = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=5)
            assert patient.completions.create(model='tiny', prompt='x', max_tokens=2).usage.completion_tokens == 2
            assert all(future.result().usage.completion_tokens == 40 for future in first)
    assert not any(handle.finish_reason is None for handle in engine.handles)
