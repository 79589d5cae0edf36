"""The requests of OpenAI's API that this server answers, checked field by field.

A field that changes what the model writes is obeyed or refused, never ignored. Fields that are not served may be given
with the value that asks for nothing (`frequency_penalty` 0, say), because some clients always send them.

Checking must not take long, whatever the body holds: nobody else is served meanwhile. So lists end at their first
fault, and what may be long is checked here and not by pydantic, which notes every fault of every alternative.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llm.inference.sampling import SamplingParams
from llm.serving.api_error import ApiError

MOST_PROMPTS = 1024
MOST_MESSAGES = 2048
MOST_PARTS = 256  # of a message
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256  # the end of the text is compared with every beginning of every stop string

# What may be said of fields that are not served: that they are to do nothing. `user` and `metadata` never do anything.
_NEUTRAL = {
    'best_of': (1,),
    'frequency_penalty': (0,),
    'function_call': ('none',),
    'functions': ([],),
    'logit_bias': ({},),
    'modalities': (['text'],),
    'parallel_tool_calls': (True, False),
    'presence_penalty': (0,),
    'response_format': ({'type': 'text'},),
    'service_tier': ('auto', 'default'),
    'store': (False,),
    'suffix': ('',),
    'tool_choice': ('none', 'auto'),
    'tools': ([],),
}
_WITHOUT_EFFECT = ('user', 'metadata')

Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]
Prompt = str | list[int] | list[str] | list[list[int]]


class _Strict(BaseModel):
    """No field that is not named, no text for a number."""

    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False  # a last chunk counts tokens


class _Generation(_Strict):
    """What both kinds of request have."""

    model: str | None = None
    n: int = Field(1, ge=1)  # texts for each prompt
    seed: int | None = Field(None, ge=0, lt=2**32)  # of the first text; the next has the next. None is a random one
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    # A temperature between 0, which is greedy, and 0.01 would only overflow float32.
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    # Ours, beyond OpenAI's; its client sends them in `extra_body`.
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=10)

    @model_validator(mode='before')
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        """Takes out what asks for nothing: nulls, and fields that are not served at the value that does nothing."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in _NEUTRAL and name not in cls.model_fields:
                if value is not None and value not in _NEUTRAL[name]:
                    raise ApiError(400, f'{name} is not served here; leave it out', name, 'unsupported_parameter')
            elif value is not None and name not in _WITHOUT_EFFECT:
                kept[name] = value
        _check_names(kept, cls)
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, seed: int) -> SamplingParams:
        """How a text with this seed is drawn."""
        temperature = max(self.temperature, 0.01) if self.temperature else 0.0
        return SamplingParams(temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, seed % 2**32)


class CompletionRequest(_Generation):
    """`POST /v1/completions`: texts, or ids, to be continued."""

    prompt: Prompt
    echo: bool = False  # the text begins with the prompt
    logprobs: int | None = Field(None, ge=0, le=5)  # report log-probabilities, of this many alternatives too

    @field_validator('prompt', mode='plain')
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Prompt:
        several = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
        if len(several) > MOST_PROMPTS:
            raise ApiError(400, f'there are {len(several)} prompts; send at most {MOST_PROMPTS} at a time', 'prompt')
        if not all(isinstance(one, str) or _are_ids(one) for one in several):
            raise ValueError
        return prompt

    @property
    def prompts(self) -> list[str | list[int]]:
        several = isinstance(self.prompt, list) and self.prompt and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]

    @property
    def limit(self) -> int | None:
        """Most tokens of a text; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def top_logprobs_wanted(self) -> int:
        return self.logprobs or 0


class TextPart(_Strict):
    type: Literal['text']
    text: str


class ChatMessage(_Strict):
    role: Literal['system', 'developer', 'user', 'assistant']
    content: str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)]

    @model_validator(mode='before')
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        """Clients send answers back as they got them, with `refusal` null and the like."""
        if not isinstance(data, dict):
            return data
        kept = {name: value for name, value in data.items() if value is not None and value != []}
        _check_names(kept, cls)
        return kept

    def message(self) -> dict[str, str]:
        """As the chat template takes it; a developer's message is the system's under its later name."""
        text = self.content if isinstance(self.content, str) else ''.join(part.text for part in self.content)
        return {'role': 'system' if self.role == 'developer' else self.role, 'content': text}


class ChatRequest(_Generation):
    """`POST /v1/chat/completions`: a conversation to be answered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1)  # the later name of max_tokens
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None is what fits."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_logprobs_wanted(self) -> int:
        return self.top_logprobs if self.logprobs else 0


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def _check_names(data: dict[str, Any], cls: type[BaseModel]) -> None:
    """Refuses the first name that is not a field's."""
    for name in data:
        if name not in cls.model_fields:
            known = ', '.join(sorted(cls.model_fields))
            message = f'there is no parameter {name[:100]!r} here; known are {known}'
            raise ApiError(400, message, name[:100], 'unknown_parameter')


_Kind = TypeVar('_Kind', CompletionRequest, ChatRequest)


def parse(kind: type[_Kind], body: bytes) -> _Kind:
    """Reads a request from JSON.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        request = kind.model_validate_json(body)  # nested too deep, not UTF-8, a lone surrogate: its errors too
    except ValidationError as error:
        raise _bad_request(error) from None
    if isinstance(request, ChatRequest):
        if request.max_tokens is not None and request.max_completion_tokens is not None:
            raise ApiError(400, 'max_tokens and max_completion_tokens are the same; give one of them', 'max_tokens')
        if request.top_logprobs and not request.logprobs:
            raise ApiError(400, 'top_logprobs needs logprobs true', 'top_logprobs')
    elif request.echo and request.logprobs is not None:
        raise ApiError(400, 'echo with logprobs is not served: the prompt has no log-probabilities here', 'echo')
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, 'stream_options needs stream true', 'stream_options')
    return request


def _bad_request(error: ValidationError) -> ApiError:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where, what = first['loc'], first['msg']
    if first['type'] == 'json_invalid':
        return ApiError(400, f'the body is not JSON that can be read: {what.removeprefix("Invalid JSON: ")}')
    name = str(where[0]) if where else None
    if name == 'prompt' and first['type'] != 'missing':
        return ApiError(400, 'prompt must be a text, a list of texts, a list of ids, or a list of such lists', name)
    if name == 'stop':
        what = f'must be a text or at most {MOST_STOPS} texts, each of 1 to {MOST_STOP_CHARACTERS} characters'
        return ApiError(400, f'stop {what}', name)
    path = '.'.join(str(part) for part in where if isinstance(part, int) or str(part).isidentifier())
    return ApiError(400, f'{path or "the body"}: {what[0].lower()}{what[1:]}', path or None)
