"""The page as people use it: opened, pointed at, walked through with keys, on a phone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aot.config.schema import Config, ModelConfig
from aot.reports.html import render_page
from tests.support.shown_runs import PER_FRAME, small_run, small_video, whole_run

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">&amp;"\'{{ 7 * 7 }}'


@pytest.fixture
def opened(open_page: Any) -> Any:
    return open_page(render_page(small_video(), [small_run()]))


def lights(page: Any) -> set[int]:
    """The cells that are lit."""
    return {int(each.get_attribute("data-cell")) for each in page.locator(".light").all()}


def test_opens_without_a_word_and_fetches_nothing(opened: Any) -> None:
    opened.page.wait_for_selector(".token")
    assert opened.said == []
    assert [url.split(":")[0] for url in opened.requested if not url.startswith("data:image/jpeg;")] == ["file"]
    assert opened.page.locator(".view img").count() == 4
    assert opened.page.evaluate("[...document.images].every((image) => image.naturalWidth > 1)")


def test_every_frame_shows_what_was_kept(opened: Any) -> None:
    page = opened.page
    frames = page.locator(".frame")
    assert [frames.nth(i).locator(".token").count() for i in range(4)] == [2, 1, 2, 1]
    assert [frames.nth(i).locator(".view.keyframe").count() for i in range(4)] == [1, 0, 1, 0]
    assert page.locator(".fate-5.token").count() == page.locator(".fate-4.token").count() == 2
    assert page.locator(".fate-6.token").count() == 2
    dimmed = page.locator(".view path.discarded").first.get_attribute("d")
    assert dimmed.count("M") == PER_FRAME - 2
    absorbed = page.locator(".view path.absorbed").nth(1).get_attribute("d")
    assert absorbed == "M30 10h10v10h-10z"


def test_an_anchor_is_reached_by_keys_and_its_sources_light_up(opened: Any) -> None:
    page = opened.page
    page.locator(".view svg").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.cell") == "0"
    assert lights(page) == set()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.cell") == "9"
    assert lights(page) == {PER_FRAME + 9, 10}
    text = page.locator("#description").inner_text().replace("\u00a0", " ")
    assert "global anchor" in text and "frame 0" in text and "row 1, column 3" in text
    assert "token 3 of 8, merged, mass 3.00: 40 % itself, 10 % this frame, 50 % other frames" in text
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()
    assert lights(page) == set()


def test_tab_goes_from_frame_to_frame(opened: Any) -> None:
    page = opened.page
    page.locator("#dim").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "frame 1 at 0.50 s, 1 kept of 24"
    )


def test_pointing_at_what_was_merged_shows_where_it_went(opened: Any) -> None:
    page = opened.page
    view = page.locator(".view").nth(1)
    box = view.bounding_box()
    view.hover(position={"x": 3.5 * box["width"] / 6, "y": 1.5 * box["height"] / 4})
    assert lights(page) == {9}
    assert "most of it is in" in page.locator("#description").inner_text()
    view.hover(position={"x": 5.5 * box["width"] / 6, "y": 3.5 * box["height"] / 4})
    assert lights(page) == set()
    assert page.locator("#description").inner_text().startswith("discarded")


def test_fates_can_be_hidden(opened: Any) -> None:
    page = opened.page
    assert page.locator(".token.fate-6").first.is_visible()
    page.locator("[data-fate='6']").uncheck()
    assert not page.locator(".token.fate-6").first.is_visible()
    assert page.locator(".token.fate-4").first.is_visible()


def test_titles_and_text_alternatives(opened: Any) -> None:
    page = opened.page
    assert page.title() == "What was kept of clip.mp4"
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    assert page.evaluate(
        "[...document.querySelectorAll('[tabindex]')].every((e) => e.getAttribute('aria-label') || e.textContent)"
    )
    assert page.locator(".timeline [role=img], .timeline[role=img]").count() == 1
    titles = page.locator(".timeline .bar title").all_text_contents()
    assert titles[0] == "frame 0 at 0.00 s: 3 tokens (2 own, 1 merged)"
    assert titles[1] == "frame 1 at 0.50 s: 1 token (1 distinct); similarity to the frame before 0.950"
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size")
        == page.locator("[id]").count()
    )


def test_strangers_texts_are_text(open_page: Any) -> None:
    run = small_run(
        name=HOSTILE,
        answers=[(HOSTILE, HOSTILE)],
        command=HOSTILE,
        config=Config(model=ModelConfig(name=HOSTILE)),
        costs_ms={HOSTILE: 1.0},
    )
    video = small_video(name=HOSTILE, facts={HOSTILE: HOSTILE}, notices=[HOSTILE], versions={"aot": HOSTILE})
    opened = open_page(render_page(video, [run, small_run(name=HOSTILE)]))
    page = opened.page
    page.locator(".view svg").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.hacked") is None
    assert opened.said == []
    assert page.title() == f"What was kept of {HOSTILE}"
    assert page.locator("blockquote").first.text_content() == HOSTILE
    assert page.locator("#command-0").text_content() == HOSTILE
    assert HOSTILE in page.locator("#description").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_methods_stand_side_by_side_on_the_same_frames(open_page: Any) -> None:
    page = open_page(render_page(small_video(), [small_run(), whole_run()])).page
    page.wait_for_selector(".token")
    row = page.locator(".rows .strip").nth(1)
    assert row.locator(".frame").count() == 2
    left, right = (row.locator(".frame").nth(i).bounding_box() for i in range(2))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.locator("[data-run='1']").uncheck()
    assert page.locator(".rows .strip").nth(1).locator(".frame").count() == 1
    assert page.locator(".head").inner_text() == "aot at 10 %"
    page.locator("[data-all='']").click()
    assert page.locator("#film").inner_text() == "No method is chosen."
    page.locator("[data-all='1']").click()
    assert page.locator(".head .frame").count() == 2


def test_of_many_methods_some_that_tell_more_are_open(open_page: Any) -> None:
    names = [
        "none",
        "random at 10 %",
        "aot at 10 %",
        "evs at 10 %",
        "tome at 10 %",
        "dycoke at 10 %",
        "standout at 10 %",
    ]
    page = open_page(render_page(small_video(), [small_run(name=name) for name in names])).page
    heads = page.locator(".head .frame").all_inner_texts()
    assert heads == names[2:6]
    rows = page.locator(".methods tbody tr")
    assert [rows.nth(i).locator("th").inner_text() for i in range(7)] == names
    assert not page.locator(".timeline").first.is_visible()


def test_everything_is_drawn_for_print(open_page: Any) -> None:
    page = open_page(render_page(small_video(40), [small_run(40)])).page
    page.wait_for_selector(".token")
    assert page.locator(".token").count() < 60
    page.emulate_media(media="print")
    page.pdf()
    assert page.locator(".token").count() == 60
    assert not page.locator("#details").is_visible()


def test_the_panel_can_be_closed_and_keeps_out_of_the_way(opened: Any) -> None:
    page = opened.page
    for frame, is_left in ((0, False), (3, True)):
        view = page.locator(".view").nth(frame)
        view.hover(position={"x": 20, "y": 20})
        panel, box = page.locator("#details").bounding_box(), view.bounding_box()
        apart_x = panel["x"] + panel["width"] <= box["x"] or box["x"] + box["width"] <= panel["x"]
        apart_y = panel["y"] + panel["height"] <= box["y"] or box["y"] + box["height"] <= panel["y"]
        assert apart_x or apart_y
        assert ("left" in page.locator("#details").get_attribute("class")) == is_left
    page.locator("#close").click()
    assert not page.locator("#details").is_visible()
    page.locator(".view").first.hover(position={"x": 30, "y": 30})
    page.locator("h1").click()
    assert not page.locator("#details").is_visible()


def test_home_and_end_stay_in_the_frame(opened: Any) -> None:
    page = opened.page
    page.locator(".view svg").first.focus()
    for key, cell in (("End", "9"), ("Home", "0")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.cell") == cell


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_follows_its_colors(open_page: Any, scheme: str) -> None:
    options = {"viewport": {"width": 360, "height": 700}, "color_scheme": scheme, "has_touch": True}
    page = open_page(render_page(small_video(), [small_run()]), **options).page
    page.wait_for_selector(".token")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground, text = (
        page.evaluate(f"getComputedStyle(document.body).{name}").removeprefix("rgb(").split(",")[0]
        for name in ("backgroundColor", "color")
    )
    assert (int(ground) > 200) == (scheme == "light") == (int(text) < 100)
    for corner, fate in (({"x": 5, "y": 5}, "local anchor"), ({"x": 5, "y": 60}, "discarded")):
        page.locator(".view").first.tap(position=corner)
        assert page.locator("#description").inner_text().startswith(fate)


@pytest.mark.parametrize("width", [320, 390])
def test_answers_of_many_methods_fit_a_phone(open_page: Any, width: int) -> None:
    """They are on the screen without scrolling sideways, next to the name of their method, and so are the numbers."""
    answer = "the green square is large and moves right. " * 3
    names = ["none", "aot at 10 %", "unified-stc+pyramiddrop at 12.5 %"]
    runs = [small_run(name=name, answers=[("what happens here?", answer)]) for name in names]
    page = open_page(render_page(small_video(), runs), viewport={"width": width, "height": 800}, has_touch=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_text("what happens here?").first.is_visible()
    for number in range(3):
        row = page.locator(".methods tbody tr").nth(number)
        for cell in [row.locator("th"), row.locator("blockquote"), *row.locator("td[data-label='kept %']").all()]:
            box = cell.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert row.locator("blockquote").bounding_box()["y"] > row.locator("th").bounding_box()["y"]
    scroll = page.locator("section.scroll")
    assert scroll.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    label = "e => getComputedStyle(e, '::before').content"
    assert page.locator("td[data-label='tokens']").first.evaluate(label).startswith('"tokens')


def test_methods_are_a_table_on_a_wide_screen(open_page: Any) -> None:
    page = open_page(
        render_page(small_video(), [small_run(), whole_run()]), viewport={"width": 1200, "height": 800}
    ).page
    row = page.locator(".methods tbody tr").first
    name, answer = (row.locator(part).bounding_box() for part in ("th", "blockquote"))
    assert name["x"] + name["width"] <= answer["x"]
    assert [each.strip() for each in page.locator(".methods thead th").all_inner_texts()][-1] == "answer"


def test_frames_not_shown_are_named_but_lead_nowhere(open_page: Any) -> None:
    frames = 300
    text = render_page(small_video(frames), [small_run(frames)])
    page = open_page(text).page
    page.wait_for_selector(".token")
    shown = json.loads(page.locator("#data").text_content())["shown"]
    assert page.locator(".frame").count() == len(shown) == 128
    assert shown[0] == 0 and shown[-1] == frames - 1
    assert "128 of 300 frames are shown" in page.locator("main").inner_text()
