"""Pairs of words that source code uses in pairs, and groups of words that it uses alike.

Written down before anything was measured on them. Of each, the experiment keeps what the tokenizer has as one token.
"""

# Relation -> pairs; every pair of a relation should be to its words what every other one is to its own.
RELATIONS: dict[str, tuple[str, ...]] = {
    'do and undo': (
        *('get set', 'open close', 'encode decode', 'read write', 'load dump', 'start stop', 'add remove', 'push pop'),
        *('pack unpack', 'connect disconnect', 'acquire release', 'enter exit', 'lock unlock', 'send recv'),
        *('register unregister', 'insert delete', 'enable disable', 'create destroy', 'attach detach', 'begin end'),
        *('quote unquote', 'escape unescape', 'compress decompress', 'import export', 'join split', 'save restore'),
        *('getattr setattr', 'push pull', 'show hide', 'put get', 'pickle unpickle', 'serialize deserialize'),
    ),
    'opposites': (
        *('min max', 'first last', 'left right', 'before after', 'old new', 'lower upper', 'input output', 'src dst'),
        *('head tail', 'top bottom', 'prefix suffix', 'parent child', 'client server', 'request response', 'start end'),
        *('local global', 'source target', 'stdin stdout', 'even odd', 'true false', 'True False', 'public private'),
        *(
            'positive negative',
            'small large',
            'short long',
            'success failure',
            'key value',
            'row column',
            'width height',
        ),
        *('next previous', 'internal external', 'valid invalid', 'low high', 'in out', 'outer inner'),
    ),
    'one and many': (
        *(
            'name names',
            'key keys',
            'value values',
            'item items',
            'arg args',
            'line lines',
            'file files',
            'class classes',
        ),
        *('option options', 'type types', 'token tokens', 'char chars', 'field fields', 'module modules', 'attr attrs'),
        *(
            'param params',
            'object objects',
            'method methods',
            'header headers',
            'part parts',
            'flag flags',
            'test tests',
        ),
        *(
            'argument arguments',
            'function functions',
            'character characters',
            'byte bytes',
            'group groups',
            'path paths',
        ),
        *('error errors', 'result results', 'thread threads', 'element elements', 'node nodes', 'event events'),
        *('digit digits', 'string strings', 'message messages', 'default defaults', 'code codes'),
    ),
    'small and Capital': (
        *(
            'error Error',
            'file File',
            'name Name',
            'type Type',
            'value Value',
            'list List',
            'string String',
            'data Data',
        ),
        *('set Set', 'get Get', 'return Return', 'read Read', 'write Write', 'test Test', 'text Text', 'base Base'),
        *('exception Exception', 'message Message', 'module Module', 'class Class', 'event Event', 'node Node'),
        *('key Key', 'code Code', 'time Time', 'path Path', 'thread Thread', 'process Process', 'handler Handler'),
        *('not Not', 'the The', 'this This', 'if If', 'for For', 'is Is', 'all All', 'no No', 'create Create'),
    ),
    'does and did': (
        *('use used', 'call called', 'name named', 'open opened', 'close closed', 'return returned', 'pass passed'),
        *('need needed', 'add added', 'raise raised', 'support supported', 'require required', 'expect expected'),
        *('create created', 'start started', 'define defined', 'specify specified', 'give given'),
        *('sort sorted', 'handle handled', 'cache cached', 'encode encoded', 'quote quoted'),
        *('format formatted', 'escape escaped', 'remove removed', 'find found', 'change changed', 'allow allowed'),
    ),
    'does and doing': (
        *('use using', 'call calling', 'read reading', 'write writing', 'return returning', 'pass passing'),
        *('encode encoding', 'parse parsing', 'process processing', 'handle handling', 'test testing', 'set setting'),
        *('start starting', 'follow following', 'include including', 'create creating'),
        *('miss missing', 'add adding', 'run running', 'load loading', 'warn warning', 'pend pending', 'wait waiting'),
    ),
    'does and doer': (
        *('read reader', 'write writer', 'parse parser', 'handle handler', 'encode encoder', 'decode decoder'),
        *('load loader', 'serve server', 'find finder', 'format formatter', 'build builder', 'call caller'),
        *('own owner', 'compile compiler', 'iterate iterator', 'generate generator', 'point pointer', 'count counter'),
    ),
    'name and _name': (
        *(
            'name _name',
            'value _value',
            'type _type',
            'file _file',
            'path _path',
            'data _data',
            'list _list',
            'get _get',
        ),
        *(
            'set _set',
            'init _init',
            'key _key',
            'lock _lock',
            'check _check',
            'read _read',
            'write _write',
            'test _test',
        ),
        *('size _size', 'to _to', 'is _is', 'has _has', 'add _add', 'error _error', 'state _state', 'parse _parse'),
        *('code _code', 'dir _dir', 'info _info', 'line _line', 'args _args', 'format _format', 'time _time', 'id _id'),
    ),
}
SPELLING = ('small and Capital', 'name and _name')  # the rest is about meaning and grammar

GROUPS: dict[str, tuple[str, ...]] = {
    'keywords': (
        *('def', 'class', 'return', 'import', 'if', 'else', 'elif', 'for', 'while', 'try', 'except', 'raise', 'with'),
        *('from', 'in', 'not', 'and', 'or', 'is', 'lambda', 'yield', 'pass', 'break', 'continue', 'del', 'assert'),
    ),
    'types': ('int', 'str', 'bytes', 'list', 'dict', 'tuple', 'bool', 'float', 'object', 'type', 'set', 'bytearray'),
    'exceptions': (
        *('ValueError', 'TypeError', 'KeyError', 'OSError', 'IndexError', 'AttributeError', 'RuntimeError'),
        *('ImportError', 'StopIteration', 'NotImplementedError', 'Exception', 'SyntaxError', 'UnicodeError'),
    ),
    'functions': (
        *('len', 'print', 'isinstance', 'getattr', 'hasattr', 'open', 'range', 'repr', 'super', 'sorted', 'setattr'),
        *('callable', 'zip', 'enumerate', 'map', 'min', 'max', 'ord', 'chr', 'hash', 'next', 'iter', 'any', 'all'),
    ),
    'names': (
        *('self', 'name', 'value', 'path', 'data', 'args', 'key', 'result', 'line', 'file', 'cls', 'text', 'size'),
        *('filename', 'msg', 'node', 'index', 'start', 'end', 'obj', 'func', 'kwargs', 'mode', 'other'),
    ),
    'English': (
        'the',
        'a',
        'an',
        'this',
        'that',
        'it',
        'of',
        'to',
        'be',
        'are',
        'was',
        'will',
        'can',
        'should',
        'which',
    ),
    'digits': tuple('0123456789'),
}
FAR = ('digits',)  # a group so far from the others that a map with it shows little else

SHOWN = ('get', 'open', 'return', 'self', 'int', 'ValueError', 'True', 'len', 'name', 'the', 'import', 'read')
ANALOGIES = (
    *('open close read', 'get set read', 'min max first', 'encode decode read', 'name names key', 'int str list'),
    *('True False first', 'if elif for', 'error Error value', 'read reader write'),
)
