"""The page's modules as one script: in order, and refused where joining them would change what they mean."""

import pytest

from llm.explorer import bundle


def write(folder, **modules):
    for name, source in modules.items():
        path = folder / f'{name.replace("__", "/")}.js'
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return folder


def test_modules_come_after_what_they_import_and_once(tmp_path):
    page = write(
        tmp_path,
        main="import { a } from './parts/a.js';\nimport {\n  b,\n} from './b.js';\na(b);\n",
        parts__a="import { b } from '../b.js';\nexport function a() { return b; }\n",
        b='export const b = 1;\n',
    )
    script = bundle.script(page)
    assert [line for line in script.splitlines() if line and not line.startswith('//')] == [
        'const b = 1;',
        'function a() { return b; }',
        'a(b);',
    ]


@pytest.mark.parametrize(
    ('modules', 'message'),
    [
        ({'main': "import { a } from './a.js';\n", 'a': "import { b } from './main.js';\n"}, 'lead back'),
        ({'main': "import a from './a.js';\n"}, 'cannot be joined'),
        ({'main': 'export default 1;\n'}, 'cannot be joined'),
        (
            {'main': "import { a } from './a.js';\nconst b = 1;\n", 'a': 'export const a = 1;\nconst b = 2;\n'},
            'declare b',
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path, modules, message):
    with pytest.raises(ValueError, match=message):
        bundle.script(write(tmp_path, **modules))


def test_data_and_scripts_cannot_end_their_element(tmp_path):
    write(tmp_path, main="const text = '</script><!--';\n")
    (tmp_path / 'style.css').write_text('p { color: red }\n')
    (tmp_path / 'index.html').write_text(
        '<head>\n<link rel="stylesheet" href="style.css">\n</head>\n<script type="module" src="main.js"></script>\n'
    )
    page = bundle.whole(tmp_path, {'prompt': '</script><!-- é'})
    assert page.count('</script') == 2 and '<!--' not in page and 'p { color: red }' in page
    assert '"\\u003c/script>\\u003c!-- é"' in page and "'<\\/script><\\!--'" in page


def test_keys_are_the_pages_own():
    assert bundle.key('GET', '/api/x', {'b': 2, 'a': 1}) == 'GET /api/x?a=1&b=2'
    assert bundle.key('GET', '/api/x', {}) == 'GET /api/x'
    assert bundle.key('POST', '/api/x', {'b': ['é'], 'a': None}) == 'POST /api/x {"a":null,"b":["é"]}'
