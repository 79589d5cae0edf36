"""Conversations of models from elsewhere: ids as transformers has them, masks, and templates that mean harm."""

import datetime

import pytest
from imported_families import FIXTURES

from llm import chat
from llm.chat import EXAMPLES_DAY
from llm.errors import UserError
from llm.tokenizer import open_directory
from llm.tokenizer.chat_template import ChatTemplate

FAMILIES = sorted(family for family in FIXTURES if FIXTURES[family]['chats'])
TALK = [
    {'role': 'user', 'content': 'Hi'},
    {'role': 'assistant', 'content': 'Hello you'},
    {'role': 'user', 'content': 'Bye'},
    {'role': 'assistant', 'content': 'So long'},
]
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    '{{ messages.__class__.__base__.__subclasses__() }}',
    '{{ raise_exception.__globals__ }}',
    '{{ dict.__globals__ }}',
    "{{ namespace.__init__.__globals__['os'] }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ ('%s' | attr('format')).__globals__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    '{{ messages.append(1) }}',
    "{{ messages[0].update({'role': 'system'}) }}",
    '{% set x = range(10000000) %}',
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return request.param


def encode(tokenizer, messages):
    if messages[-1]['role'] == 'assistant':
        return chat.encode(tokenizer, messages).ids
    return chat.encode_prompt(tokenizer, messages)


def trained(tokenizer, messages):
    """The stretches that are trained on, special tokens by name."""
    ids, mask = chat.encode(tokenizer, messages)
    found, last = [], False
    for i, on in zip(ids, mask):
        if on:
            found += [] if last else ['']
            found[-1] += tokenizer.special.get(i) or tokenizer.token_bytes(i).decode()
        last = on
    return found


def test_conversations_are_those_of_transformers(family, tokenizer):
    for entry in FIXTURES[family]['chats']:
        if 'refused' in entry:
            with pytest.raises(UserError, match=entry['refused']) as raised:
                encode(tokenizer, entry['messages'])
            assert '\n' not in str(raised.value)
        else:
            assert encode(tokenizer, entry['messages']) == entry['ids']
        if 'mask' in entry:
            assert chat.encode(tokenizer, entry['messages']).mask == list(map(bool, entry['mask']))


def test_what_is_trained_on(family, tokenizer):
    ends = {'llama3': '<|eot|>', 'marked': '<|eot|>', 'qwen': '<|im_end|>', 'gemma': '<end_of_turn>'}
    space, end = ('', ends[family]) if family in ends else (' ', ' </s>')
    assert trained(tokenizer, TALK) == [f'{space}Hello you{end}', f'{space}So long{end}']


def test_an_answer_follows_the_ids_of_its_prompt(family, tokenizer):
    whole = chat.encode(tokenizer, TALK)
    for i in (1, 3):
        prompt = chat.encode_prompt(tokenizer, TALK[:i])
        ids, length, kept = chat.encode_exchange(tokenizer, TALK[:i], TALK[i]['content'])
        assert kept and length == len(prompt) and ids[:length] == prompt
        assert ids == whole.ids[: len(ids)]
        assert ids[-1] in chat.end_ids(tokenizer)
        assert whole.mask[length : len(ids)] == [True] * (len(ids) - length) and not whole.mask[length - 1]


@pytest.mark.parametrize(
    ('family', 'ends', 'others'),
    [
        ('qwen', {'<|im_end|>'}, {'<|im_start|>'}),
        ('llama3', {'<|end|>', '<|eot|>'}, {'<|begin|>', '<|start|>', '<|sep|>'}),
        ('gemma', {'<eos>', '<end_of_turn>'}, {'<bos>', '<start_of_turn>'}),
        ('llama2', {'</s>'}, {'<s>'}),
    ],
)
def test_which_tokens_end_an_answer(folder, family, ends, others):
    tokenizer = open_directory(folder(family))
    names = lambda ids: {tokenizer.special[i] for i in ids}
    assert names(chat.end_ids(tokenizer)) == ends
    assert names(chat.stop_ids(tokenizer)) == ends | others


def test_a_turn_that_a_special_token_opens(folder):
    """Where the template has no words for the end of a prompt, the answer begins with what opens its turn."""
    source = folder('llama2')
    turn = "{% for m in messages %}{{ '<s>' + m.role + ' ' + m.content + '</s>' }}{% endfor %}"
    (source / 'chat_template.jinja').write_text(turn)
    tokenizer = open_directory(source)
    assert trained(tokenizer, TALK) == ['<s>assistant Hello you</s>', '<s>assistant So long</s>']
    assert chat.end_ids(tokenizer) == (tokenizer.eos_id,)


def test_a_turn_that_no_token_ends(folder):
    source = folder('qwen')
    (source / 'chat_template.jinja').write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    )
    tokenizer = open_directory(source)
    assert trained(tokenizer, TALK) == ['assistant: Hello you\n', 'assistant: So long\n']
    assert chat.end_ids(tokenizer) == (tokenizer.eos_id,)


LAST_TURN = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + ' ' %}{% set talk = messages[1:] %}"
    '{% else %}{% set talk = messages %}{% endif %}{{ bos_token }}{% for m in talk %}'
    "{% if m.role == 'user' %}[INST] {% if loop.last and system is defined %}{{ system }}{% endif %}"
    '{{ m.content }}[/INST]'
    '{% else %} {% generation %}{{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}'
)


def test_a_template_that_rewrites_what_stands_before_an_answer_is_refused(folder):
    """A system message that only the last turn has, if it is the user's: the common ids end within the user's text."""
    source, system = folder('llama2'), [{'role': 'system', 'content': 'Be brief'}]
    (source / 'chat_template.jinja').write_text(LAST_TURN)
    assert trained(open_directory(source), [*system, *TALK]) == ['Hello you</s>', 'So long</s>']
    for number, messages in ((3, TALK[:1]), (5, TALK[:3])):
        with pytest.raises(UserError, match=rf'before message {number} otherwise .* change it'):
            chat.encode_exchange(open_directory(source), [*system, *messages], 'x')
    unmarked = LAST_TURN.replace('{% generation %}', '').replace('{% endgeneration %}', '')
    (source / 'chat_template.jinja').write_text(unmarked)
    tokenizer = open_directory(source)
    assert trained(tokenizer, TALK) == [' Hello you</s>', ' So long</s>']
    for messages in (TALK, TALK[:2]):
        with pytest.raises(UserError, match=r'before message 3 otherwise .*{% generation %}') as raised:
            chat.encode(tokenizer, [*system, *messages])
        assert '\n' not in str(raised.value)


def test_a_prompt_that_goes_on_otherwise_than_an_answer(folder):
    source = folder('qwen')
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    opened = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    (source / 'chat_template.jinja').write_text(turns + opened)
    tokenizer = open_directory(source)
    assert trained(tokenizer, TALK) == ['Hello you<|im_end|>', 'So long<|im_end|>']
    ids, start, whole = chat.encode_exchange(tokenizer, TALK[:1], 'Hello you')
    assert not whole and tokenizer.decode(ids[start:], continued=True) == 'Hello you'


def test_a_message_that_spells_a_special_token_is_refused(tokenizer):
    for name in tokenizer.special.values():
        for messages in ([{'role': 'user', 'content': f'a{name}b'}], [*TALK[:1], TALK[1] | {'content': name}]):
            with pytest.raises(UserError, match=f'message {len(messages)} spells the special token') as raised:
                encode(tokenizer, messages)
            assert '\n' not in str(raised.value)


@pytest.mark.parametrize('bad', ['\udcff', '\ud83d', 'a\udc80b'])
def test_a_message_that_is_not_utf8_is_refused(tokenizer, bad):
    for messages in ([{'role': 'user', 'content': bad}], [*TALK[:1], TALK[1] | {'content': bad}]):
        with pytest.raises(UserError, match=r'the conversation has .* not UTF-8') as raised:
            encode(tokenizer, messages)
        str(raised.value).encode()
        assert '\n' not in str(raised.value)


def test_no_message_adds_a_special_token(family, tokenizer):
    """Whatever is said, the special tokens are those of the turns."""
    special = lambda messages: [i for i in encode(tokenizer, messages) if i in tokenizer.special]
    for text in ['<|im_', 'end|>', '<', '|>', '<|', '<s', '\ue000', '{{ bos_token }}', '{% raw %}', '\u202e</ s>']:
        assert special([{'role': 'user', 'content': text}]) == special([{'role': 'user', 'content': 'a'}])


def test_without_a_template_there_are_no_conversations(folder):
    tokenizer = open_directory(folder('gpt2'))
    for call in (chat.encode, chat.encode_prompt):
        with pytest.raises(UserError, match='has no chat template'):
            call(tokenizer, TALK[:1])
    assert chat.end_ids(tokenizer) == chat.stop_ids(tokenizer) == (tokenizer.eos_id,)


def test_a_plain_completion_without_a_beginning(folder):
    gpt2 = open_directory(folder('gpt2'))
    ids, start, whole = chat.encode_completion(gpt2, 'Hello ', 'world')
    assert ids == [*gpt2.encode('Hello world'), gpt2.eos_id]
    assert not whole and start == len(gpt2.encode('Hello'))  # " world" is one token, or begins as one
    ids, start, whole = chat.encode_completion(gpt2, '', 'Hello')  # nothing would predict its first token
    assert ids == [gpt2.eos_id, *gpt2.encode('Hello'), gpt2.eos_id] and start == 1 and whole


def test_the_oldest_exchanges_are_forgotten(tokenizer):
    messages = [*TALK, {'role': 'user', 'content': 'last'}]
    size = lambda messages: len(chat.encode_prompt(tokenizer, messages))
    for room in range(size(messages[4:]), size(messages) + 1):
        kept = chat.fit(tokenizer, messages, room)
        assert size(kept) <= room and kept == messages[len(messages) - len(kept) :]
        more = messages[len(messages) - len(kept) - 2 :]
        assert len(kept) == len(messages) or size(more) > room
    with pytest.raises(UserError, match='there is room for'):
        chat.fit(tokenizer, messages, size(messages[4:]) - 1)


@pytest.mark.parametrize('source', ESCAPES)
def test_a_template_cannot_leave_its_sandbox(source):
    message = {'role': 'user', 'content': 'a'}
    with pytest.raises(UserError, match='the chat template'):
        written = ChatTemplate(source, {}).render([message], add_generation_prompt=True).text
        assert not written  # an attribute that is not there is written as nothing
        raise UserError('the chat template wrote nothing')
    assert message == {'role': 'user', 'content': 'a'}


def test_a_template_that_fails_says_so_in_one_line():
    for source, problem in [
        ("{{ raise_exception('no\nway') }}", 'refuses the conversation: no'),
        ('{{ messages[5].content.x.y }}', 'fails .UndefinedError'),
        ('{{ 1 / 0 }}', 'fails .ZeroDivisionError'),
    ]:
        with pytest.raises(UserError, match=problem) as raised:
            ChatTemplate(source, {}).render(TALK, add_generation_prompt=False)
        assert '\n' not in str(raised.value)


def test_what_a_template_may_use():
    day = datetime.datetime(2031, 2, 3)
    render = lambda source, **more: ChatTemplate(source, {'bos_token': '<b>'}).render(
        TALK[:1], add_generation_prompt=True, today=day, **more
    )
    assert render("{{ strftime_now('%Y-%m-%d') }}").text == '2031-02-03'
    assert render("{{ {'a': '<é>'} | tojson }}").text == '{"a": "<é>"}'
    assert render('{{ bos_token }}{{ eos_token }}').text == '<b>'
    assert render('{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}').text == '01'
    assert render('  {% if true %}\nx\n  {% endif %}\n').text == 'x\n'  # blocks are trimmed
    assert render('{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}').text == '3'
    assert render('{% if tools is none %}n{% endif %}{% if tools is defined %}d{% endif %}').text == 'nd'


def test_an_answer_has_no_space_that_only_its_tokenizer_puts_there(folder):
    llama, qwen = (open_directory(folder(family)) for family in ('llama2', 'qwen'))
    said = lambda tokenizer, *pieces: list(chat.answer(tokenizer, pieces))
    assert said(llama, '', ' Hel', 'lo', ' you') == ['', 'Hel', 'lo', ' you']
    assert said(llama, '  two') == [' two']
    assert said(qwen, ' Hello') == [' Hello']


def test_examples_are_the_same_on_any_day():
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {})
    assert template.render(TALK, add_generation_prompt=False, today=EXAMPLES_DAY).text == '26 Jul 2024'
    now = datetime.datetime.now().strftime('%d %b %Y')
    assert template.render(TALK, add_generation_prompt=False).text == now


def test_what_stands_in_generation_blocks():
    source = (
        '{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}'
        "{% for m in messages %}{% if m.role == 'assistant' %}[{{ say(m) }}]{% else %}({{ m.content }}){% endif %}"
        '{% endfor %}'
    )
    text, answers = ChatTemplate(source, {}).render(TALK, add_generation_prompt=False)
    assert text == '(Hi)[Hello you](Bye)[So long]'
    assert [text[start:end] for start, end in answers] == ['Hello you', 'So long']
