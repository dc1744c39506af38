"""The page on a phone: nothing to scroll sideways, targets for fingers, text that can be read."""

import pytest
from browser_pages import Watched

# Returns what a finger can hit that is less than 44 pixels wide or high.
SMALL = """() => [...document.querySelectorAll(
  "button, .button, summary, select, audio, [role=slider], .switch, input:not(.unseen, #rerank)")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }))
  .map((each) => [each.id || each.className || each.tagName, each.getBoundingClientRect()])
  .filter(([, { width, height }]) => Math.min(width, height) < 43.9)
  .map(([name, { width, height }]) => `${name} ${width} x ${height}`)"""

# Returns the texts that are shown with a contrast below 4.5 to the nearest ground behind them.
FAINT = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (share) => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  const bright = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255) + 0.05;
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return bright(colour);
    }
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest(":disabled, :has(> :disabled)")) continue;
    const pair = [bright(numbers(getComputedStyle(node).color)), ground(node)];
    const contrast = Math.max(...pair) / Math.min(...pair);
    if (contrast < 4.5) faint.push(`${texts.currentNode.data}: ${contrast}`);
  }
  return faint;
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("width, scheme", [(320, "light"), (390, "dark")])
def test_a_phone(browser, url, page_root, spoken, width, scheme):
    look = {"viewport": {"width": width, "height": 700}, "color_scheme": scheme}
    watched = Watched(browser, url, has_touch=True, is_mobile=True, **look)
    page = watched.page

    def check():
        found = page.evaluate(OVERFLOW), page.evaluate(SMALL), page.evaluate(FAINT)
        assert found == (0, [], [])

    check()
    watched.search("speech", spoken)
    check()
    page.tap("#pictures .card >> nth=0")
    page.wait_for_selector("#why[open]")
    check()
    page.tap("#why-close")
    page.tap("#tab-picture")
    pictures = [page_root / "pictures" / f"{n}.png" for n in (4, 5)]
    page.set_input_files("#file-picture", pictures)
    page.wait_for_selector("body:not(.busy) .best")
    check()
    page.tap("#batch details:nth-of-type(2) summary")
    page.wait_for_selector("#batch details:nth-of-type(2) .rank")
    check()
    watched.search("picture", pictures[0])
    check()
    page.set_input_files("#file-picture", [pictures[0]] * 25)
    page.wait_for_selector("#error:not([hidden])")
    check()
    assert watched.messages == []
    page.close()
