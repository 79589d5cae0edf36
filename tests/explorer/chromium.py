"""A page in headless Chromium, and what it complained of."""

import contextlib
import shutil

ARGUMENTS = [
    *('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'),
    *('--disable-component-update', '--disable-sync'),
]
LAPTOP, PHONE = {'width': 1280, 'height': 860}, {'width': 390, 'height': 844}


def missing() -> str | None:
    """Why no browser can be driven here, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return 'playwright is not installed: pip install playwright'
    return None if shutil.which('chromium') else "no chromium: install Debian's package, apt-get install chromium"


@contextlib.contextmanager
def browser():
    """Debian's Chromium; the driver is Playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=shutil.which('chromium'), args=ARGUMENTS)
        try:
            yield launched
        finally:
            launched.close()


@contextlib.contextmanager
def opened(launched, url, size=LAPTOP, scheme='light', refused=()):
    """A page at `url` once its first view is there; fails on any complaint of the browser's.

    Args:
        refused: statuses of answers that the test provokes; the browser itself notes each on its console.
    """
    context = launched.new_context(viewport=size, color_scheme=scheme, has_touch=size is PHONE)
    page = context.new_page()
    complaints: list[str] = []
    expected = tuple(f'status of {status} ' for status in refused)
    page.on('pageerror', lambda error: complaints.append(f'{error.message} {error.stack}'))
    page.on(
        'console',
        lambda said: (
            complaints.append(said.text)
            if said.type in ('error', 'warning') and not any(one in said.text for one in expected)
            else None
        ),
    )
    page.set_default_timeout(60_000)
    try:
        page.goto(url)
        yield page
        assert complaints == []
    finally:
        context.close()
