"""A report in a real browser: it loads, sorts, opens a trajectory, turns its sphere, and prints."""

import shutil
import socket

import grids
import numpy as np
import pytest
import reports

from sharpflow.experiments.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect  # waits: what a click starts ends a little later


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
A4 = 718  # pixels of 1/96 inch between margins of 1 cm


@pytest.fixture(scope="module")
def browser():
    """One headless browser for the module."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of the browsers {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        # a browser in a container has no room in /dev/shm
        launched = playwright.chromium.launch(
            executable_path=found, args=[*ARGUMENTS, "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Pages of a run of eight points, one of which diverged at once, and of a demo."""
    base = tmp_path_factory.mktemp("pages")
    dataset = grids.grid((2, 2, 2), rows=30, axes={"kind": [reports.HOSTILE]})
    dataset = grids.ended(dataset, grids.DIVERGED, at=0, seed=0, learning_rate=0, weight_decay=0)
    config = f"description = '''{reports.HOSTILE}'''\n"
    folder = reports.write_run(base / "run", dataset, config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
        run = write_report(folder)
    return {"run": run, "demo": write_report(reports.write_demo(base / "demo"))}


class Visit:
    """A page with what went wrong in it and what it asked for."""

    def __init__(self, browser, path, part="", **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.wrong, self.requests = [], []
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append("alert"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url + part)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def values(self, head):
        """The keys of a column of the grid, in the order of its rows."""
        heads = self.page.locator("#grid-table thead button").all_inner_texts()
        place = heads.index(head) + 1
        cells = self.page.locator(f"#grid-table tbody td:nth-child({place})")
        return cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")

    def asked(self):
        """What was requested beside the page and what it holds."""
        inside = (self.url, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(inside)]


@pytest.mark.parametrize("kind", ["run", "demo"])
def test_a_page_loads_without_errors_and_its_policy_stops_every_request(browser, paths, kind):
    with Visit(browser, paths[kind]) as visit:
        visit.page.wait_for_load_state("networkidle")
        assert visit.wrong == [] and visit.asked() == []
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            place = f"http://127.0.0.1:{server.getsockname()[1]}/"
            asking = f"fetch('{place}').then(() => 'sent', () => 'stopped')"
            picture = "new Promise((end) => Object.assign(new Image(), "
            picture += (
                f"{{src: '{place}x', onload: () => end('seen'), onerror: () => end('not')}}))"
            )
            assert [visit.page.evaluate(ask) for ask in (asking, picture)] == ["stopped", "not"]
            with pytest.raises(TimeoutError):  # nobody has called
                server.accept()
        assert "Content Security Policy" in "".join(visit.wrong)


def test_a_click_or_a_key_on_a_head_sorts_numbers_as_numbers_both_ways(browser, paths):
    with Visit(browser, paths["run"]) as visit:
        head = visit.page.get_by_role("button", name="last mean training loss L̄")
        before = visit.values("last mean training loss L̄")
        known = sorted(float(value) for value in before if value)
        assert len(known) == 7 and known != [float(value) for value in before if value]
        head.click()
        rising = visit.values("last mean training loss L̄")
        assert [float(value) for value in rising[:-1]] == known and rising[-1] == ""
        assert (
            visit.page.locator("th[aria-sort=ascending]").inner_text()
            == "last mean training loss L̄"
        )
        head.focus()
        visit.page.keyboard.press("Enter")
        falling = visit.values("last mean training loss L̄")
        assert [float(value) for value in falling[:-1]] == known[::-1] and falling[-1] == ""
        assert visit.page.locator("th[aria-sort=descending]").count() == 1
        # the rows moved as a whole
        assert sorted(visit.values("point")) == [f"{point}.0" for point in range(8)]
        assert visit.wrong == []


def test_a_click_on_a_cell_opens_its_trajectory_and_the_back_button_closes_it(browser, paths):
    with Visit(browser, paths["run"]) as visit:
        page, dialog = visit.page, visit.page.locator("#trajectory")
        assert not dialog.is_visible()
        page.locator("#grid-table tbody tr:nth-child(6) td:nth-child(4)").click()
        expect(dialog).to_be_visible()
        assert page.url.endswith("#point-5")
        assert page.locator("#trajectory-title").inner_text().startswith("Point 5: seed 1")
        titles = page.locator(".chart svg[role=img]").evaluate_all(
            "found => found.map((svg) => svg.getAttribute('aria-label'))"
        )
        assert titles[:3] == [
            "training loss against flow time τ",
            "sharpness and threshold against flow time τ",
            "edge ratio against flow time τ",
        ]
        drawn = page.locator(".chart path[style]").evaluate_all(
            "found => found.map((path) => path.getAttribute('d'))"
        )
        assert all("NaN" not in d for d in drawn) and max(map(len, drawn)) > 200
        page.keyboard.press("ArrowRight")
        expect(page.locator("#trajectory-title")).to_contain_text("Point 6: ")
        page.go_back()
        expect(dialog).not_to_be_visible()
        page.goto(visit.url + "#point-2")  # as a link would
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        page.wait_for_url("**#grid")
        expect(dialog).not_to_be_visible()
        page.goto(visit.url + "#point-0")  # diverged at once
        expect(dialog).to_contain_text("Nothing was recorded")
        assert visit.wrong == []


def test_dragging_turns_the_sphere(browser, paths):
    pytest.importorskip("plotly", reason="plotly is not installed: the sphere stands still")
    with Visit(browser, paths["demo"]) as visit:
        page = visit.page
        page.locator("#sphere").scroll_into_view_if_needed()
        page.wait_for_selector("#sphere-turning[data-drawn] canvas", timeout=60_000)
        assert not page.locator("#sphere-still").is_visible()
        radii = page.evaluate(
            """() => document.getElementById("sphere-turning").data
              .filter((each) => each.type === "scatter3d" && each.showlegend !== undefined)
              .map((each) => Math.min(...each.x.map((x, place) => x === null ? 1
                : Math.hypot(x, each.y[place], each.z[place]))))"""
        )
        # the circles and the path of the trajectory: no part of either is below the surface
        assert len(radii) == 2 and min(radii) > 0.985
        camera = (
            "document.getElementById('sphere-turning')._fullLayout.scene._scene.getCamera().eye"
        )
        before = page.evaluate(camera)
        box = page.locator("#sphere-turning").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 120, middle[1] + 40, steps=5)
        page.mouse.up()
        # the cosine of the angle between then and now, unit vectors both
        cosine = f"['x', 'y', 'z'].reduce((sum, axis) => sum + {camera}[axis] * before[axis], 0)"
        limit = float(np.cos(np.deg2rad(10)))
        page.wait_for_function(f"before => {cosine} < {limit}", arg=before, timeout=10_000)
        assert np.linalg.norm([before[axis] for axis in "xyz"]) == pytest.approx(1.0, abs=1e-3)
        assert visit.wrong == [] and visit.asked() == []


@pytest.mark.parametrize("kind", ["run", "demo"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_a_page_without_scrolling_sideways(browser, paths, kind, scheme):
    phone = {"viewport": {"width": 375, "height": 700}, "has_touch": True, "color_scheme": scheme}
    wide = "document.scrollingElement.scrollWidth"
    with Visit(browser, paths[kind], **phone) as visit:
        assert visit.page.evaluate(wide) == 375
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        if kind == "run":
            visit.page.locator("#grid-table tbody tr:nth-child(2) td:nth-child(2)").tap()
            dialog = visit.page.locator("#trajectory")
            expect(dialog).to_be_visible()
            assert dialog.bounding_box()["width"] <= 375
            assert dialog.evaluate("found => found.scrollWidth <= found.clientWidth")
            visit.page.locator("#trajectory-close").tap()
        for box in visit.page.locator(".scroll:visible").all():
            # its last column comes into sight, and the first one of the grid stays there
            box.evaluate("found => { found.scrollLeft = found.scrollWidth; }")
            frame = box.bounding_box()
            cells = box.locator("tbody tr").first.locator("td")
            last = cells.last.bounding_box()
            assert last["x"] + last["width"] <= frame["x"] + frame["width"] + 1
            if box.locator("#grid-table").count():
                assert abs(cells.first.bounding_box()["x"] - frame["x"]) <= 2
        assert visit.wrong == []


@pytest.mark.parametrize("kind", ["run", "demo"])
def test_paper_has_the_tables_in_full_and_the_still_sphere(browser, paths, kind):
    with Visit(browser, paths[kind], viewport={"width": A4, "height": 1000}) as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= A4
        assert not visit.page.locator("nav").is_visible()
        for box in visit.page.locator(".scroll").all():
            assert box.evaluate("found => found.scrollHeight <= found.clientHeight + 1")
        last = "#grid-table" if kind == "run" else "#statements-table"
        assert visit.page.locator(f"{last} tbody tr").last.is_visible()
        if kind == "demo":
            assert visit.page.locator("#sphere-still img").is_visible()
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        assert visit.page.pdf(format="A4").startswith(b"%PDF") and visit.wrong == []
