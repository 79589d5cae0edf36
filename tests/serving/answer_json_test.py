"""Events to JSON, where the engine's are unusual: spaces that mark a beginning, tokens that are part of a character."""

import json

from llm.inference.engine import Event
from llm.serving.answers import LEAST_LOGPROB, ChatAnswer, TextAnswer, dumps, token_text


class Marking:
    """A tokenizer whose texts begin with a space that is not theirs."""

    leading_space = True
    pieces = {1: b' Hi', 2: b' there', 3: b'\xe2', 4: b''}

    def token_bytes(self, token):
        return self.pieces[token]

    def piece(self, token):
        return f'<{token}>'


def said(text, *ids, logprob=-1.0):
    return Event(text, ids, (logprob,) * len(ids), (((1, logprob), (2, -2.0)),) * len(ids))


def test_an_answer_has_no_space_that_only_marks_its_beginning():
    answer = ChatAnswer('m', Marking(), False, 0)
    parts = [answer.part(0, event, None)['delta'] for event in (said(''), said(' Hi', 1), said(' there', 2))]
    assert parts == [{}, {'content': 'Hi'}, {'content': ' there'}]
    assert answer.part(1, said(' Hi', 1), None)['delta'] == {'content': 'Hi'}  # each choice has a beginning
    assert ChatAnswer('m', Marking(), False, 0).choice(0, '', said(' Hi there', 1, 2), 'stop')['message'] == {
        'role': 'assistant',
        'content': 'Hi there',
        'refusal': None,
    }
    assert TextAnswer('m', Marking(), False, 0).part(0, said(' there', 2), None)['text'] == ' there'


def test_tokens_by_name():
    assert [token_text(Marking(), token) for token in (1, 3, 4)] == [' Hi', 'bytes:\\xe2', '<4>']


def test_reports_are_json_whatever_the_numbers():
    event = said(' Hi', 1, 4, logprob=float('-inf'))
    report = TextAnswer('m', Marking(), True, 1).part(0, event, None)['logprobs']
    assert report['token_logprobs'] == [LEAST_LOGPROB] * 2 and report['top_logprobs'] == [{' Hi': LEAST_LOGPROB}] * 2
    tokens = ChatAnswer('m', Marking(), True, 2).part(0, event, None)['logprobs']['content']
    assert [len(token['top_logprobs']) for token in tokens] == [2, 2] and tokens[0]['bytes'] == list(b' Hi')
    assert json.loads(dumps({'a': report, 'b': tokens, 'c': '\ud800'}))['c'] == '?'
