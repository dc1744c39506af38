"""A page in a real browser, watched, and what tests ask of it."""

from playwright.sync_api import expect

expect.set_options(timeout=300_000)
PIXELS = "id => document.getElementById(id).toDataURL()"


class Watched:
    """A page that records its requests, console messages and errors."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}} | options)
        self.page.set_default_timeout(300_000)
        self.messages, self.requests = [], []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]")

    def _on_console(self, message):
        # The console reports that the link out of the folder is not served, as it should not be.
        if "link.png" not in message.location["url"]:
            self.messages.append(message.text)

    def search(self, kind, path):
        self.page.set_input_files(f"#file-{kind}", path)
        self.wait_for_results()

    def wait_for_results(self):
        self.page.wait_for_selector("body:not(.busy) .rank")


def until(page, expression):
    """Wait until an expression is true; the page's security policy forbids `wait_for_function`."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{expression} did not come true")


def ids(page):
    return page.locator("#pictures .card").evaluate_all("all => all.map(each => each.title)")
