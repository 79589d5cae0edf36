"""The files of the page: whole without a build step, joined into one without clashes, and small enough to read."""

import pathlib
import re

import pytest

from llm.explorer import sources
from llm.explorer.app import PAGE
from llm.explorer.bundle import script

MODULES = sorted(PAGE.rglob('*.js'))
STYLES = sorted(PAGE.rglob('*.css'))
IMPORT = re.compile(r"^import \{([^}]*)\} from '(\.[^']+)';$", re.MULTILINE)
DECLARED = re.compile(r'^(?:export )?(?:async )?(?:function|const|let|class) ([\w$]+)', re.MULTILINE)
EXPORTED = re.compile(r'^export (?:async )?(?:function|const|class) ([\w$]+)', re.MULTILINE)


def name(path: pathlib.Path) -> str:
    return path.relative_to(PAGE).as_posix()


@pytest.mark.parametrize('module', MODULES, ids=name)
def test_every_import_is_of_a_name_that_is_there_and_used(module):
    text = module.read_text()
    assert len(IMPORT.findall(text)) == len(re.findall(r'^import\b', text, re.MULTILINE))
    rest = IMPORT.sub('', text).replace('...', ' ')
    for names, target in IMPORT.findall(text):
        exported = EXPORTED.findall((module.parent / target).read_text())
        for one in filter(None, (part.strip() for part in names.split(','))):
            assert one in exported, f'{one} is not exported by {target}'
            assert re.search(rf'(?<![\w$.]){re.escape(one)}(?![\w$])', rest), f'{one} is imported in vain'


def test_no_two_modules_declare_one_name():
    """They share one scope in the static file."""
    owners: dict[str, list[str]] = {}
    for module in MODULES:
        for one in DECLARED.findall(module.read_text()):
            owners.setdefault(one, []).append(name(module))
    assert {one: files for one, files in owners.items() if len(files) > 1} == {}


def test_the_joined_script_has_every_module_that_there_is():
    joined = script(PAGE)
    assert sorted(re.findall(r'^// (\S+\.js)$', joined, re.MULTILINE)) == [name(module) for module in MODULES]


def test_nothing_is_loaded_from_elsewhere():
    for path in [*MODULES, *STYLES, PAGE / 'index.html']:
        text = path.read_text().replace('http://www.w3.org/2000/svg', '')
        assert not re.search(r'https?://|@import|url\((?!data:)|\binnerHTML\b|\beval\(', text), path
    for target in re.findall(r'(?:href|src)="([^"#:]+)"', (PAGE / 'index.html').read_text()):
        assert (PAGE / target).is_file()


def test_sources_that_buttons_name_are_there(explorer):
    stages = sources.stages(explorer.runs[0].model, explorer.runs[0].tokenizer)
    named = set()
    for module in MODULES:
        for call in re.findall(r"\[((?:'[a-z_]+',?\s*)+)\],\s", module.read_text()):
            named |= {one for one in re.findall(r"'([a-z_]+)'", call) if one in stages}
    assert named == set(stages), 'every stage with a source is linked from somewhere'


@pytest.mark.parametrize('path', [*MODULES, *STYLES], ids=name)
def test_files_are_small(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300
    assert path.suffix == '.css' or lines[0].startswith('// '), 'the first line says what the module is'


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_is_readable_on_every_ground(scheme):
    """The contrast that WCAG 2.2 asks of text at level AA, 4.5, in both schemes."""
    blocks = re.findall(r'\{([^{}]*--page:[^{}]*)\}', (PAGE / 'style/base.css').read_text())
    light, *dark = (dict(re.findall(r'--([\w-]+): (#[0-9a-f]{6});', block)) for block in blocks)
    assert len(dark) == 2 and dark[0] == dark[1], "the system's dark and the button's dark are one"
    colours = light if scheme == 'light' else dark[0]
    for ground in ('page', 'card', 'code', 'wash'):
        for ink in ('text', 'quiet', 'link', 'good', 'bad', 'warn'):
            low, high = sorted((luminance(colours[ground]), luminance(colours[ink])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f'{ink} on {ground}'
