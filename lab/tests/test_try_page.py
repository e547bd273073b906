"""The page `try.md` in a real browser: each tab computes what the package does, and asks no other server.

Needs `make try`, Debian's chromium and playwright; `make test-try` brings all but the browser. Screenshots,
and what each tab loads over a link of 20 Mbit/s, are kept in runs/try_page/.
"""

import functools
import http.server
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from small import ROOT

import glow_tf
from glow_tf import use
from glow_tf.run.pictures import enlarged
from glow_tf.use.score.rule import place_maps
from lab import try_page

pytestmark = pytest.mark.slow
SHOTS = ROOT / "runs" / "try_page"
LINK = {"offline": False, "latency": 20, "downloadThroughput": 20e6 / 8, "uploadThroughput": 20e6 / 8}
TABS = ("draw", "enlarge", "bits", "unusual", "mix")
DONE = "!document.querySelector('#try').hasAttribute('aria-busy')"


@functools.cache
def preset(size):
    return glow_tf.load(try_page.PRESET, image_shape=(size, size, 3))


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on loopback, and counts the bytes that it sends."""

    daemon_threads = True

    def __init__(self, folder):
        self.sent = 0
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile):
        content = source.read()
        self.server.sent += len(content)
        outputfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("mkdocs")
    for folder in ("model", "runtime"):
        if not (try_page.FOLDER / folder).is_dir():
            pytest.skip(f"docs/try/{folder} is not there: make try")
    site = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", f"--site-dir={site}"]
    subprocess.run(command, cwd=ROOT, check=True)
    server = Server(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not there")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Returns two pictures that look a little like photographs: drawn, and enlarged."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "first.png", folder / "second.png"]
    for drawn, path in zip(np.asarray(preset(64).sample(4, temperature=1.0, seed=1))[2:], paths, strict=True):
        Image.fromarray(drawn).resize((400, 300), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="module")
def page(browser, server):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))  # a method cannot be wrapped
    page.goto(f"{server.address}/try/")
    yield page
    assert not errors
    assert all(url.startswith((server.address, "data:", "blob:")) for url in requests)
    assert any(url.endswith("weights.bin.gz") for url in requests)


def perform(page, tab, **settings):
    """Uses a tab, keeps a picture of it, and returns its result with arrays as lists."""
    page.click(f"#tab-{tab}")
    for name, value in settings.items():
        control = page.locator(f"#panel-{tab} [name={name}]")
        if value is True:
            control.check()
        elif name in ("size", "factor"):
            control.select_option(str(value))
        else:
            control.fill(str(value))
    page.click(f"#panel-{tab} form button")
    page.wait_for_function(DONE, timeout=300_000)
    assert page.inner_text("#try [role=status]").startswith("Done")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{tab}_{page.viewport_size['width']}.png", full_page=True)
    return page.evaluate(
        """tab => JSON.parse(JSON.stringify(document.querySelector(`#panel-${tab}`).result,
        (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value))""",
        tab,
    )


def choose(page, photos):
    page.click("#tab-mix")
    for which, path in zip(("first", "second"), photos, strict=True):
        page.set_input_files(f"[data-photo={which}] input", path)
        page.wait_for_function(f"document.querySelector('[role=status]').textContent.includes('{path.name}')")


def image(values, size):
    return np.array(values, np.uint8).reshape(1, size, size, 3)


def assert_same_image(found, expected):
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_drawn_images_are_those_that_the_package_decodes(page):
    for draw in perform(page, "draw", size=32, seed=47):
        eps = np.array(draw["eps"], np.float32)[np.newaxis]
        assert abs(eps.mean()) < 0.1
        assert abs(eps.std() - 1) < 0.1
        found = [image(own, 4 * 2**k) for k, own in enumerate(draw["images"])]
        assert_same_image(found[-1], use.decode(preset(32), eps))
        for own, other in itertools.pairwise(found):
            assert np.abs(own - use.reduced(other)).mean() < 1


@pytest.mark.parametrize("factor", [2, 4])
def test_an_enlarged_photo_is_what_the_package_makes(page, photos, factor):
    choose(page, photos)
    result = perform(page, "enlarge", factor=factor)
    small = image(result["small"], 64)
    likeliest, *drawn = (image(own["image"], 64 * factor) for own in result["found"])
    assert_same_image(likeliest, use.upscale(preset(64), small, factor=factor))
    assert_same_image(image(result["smooth"], 64 * factor), enlarged(small, factor))
    assert len(drawn) == 3
    flow = preset(64)
    for own, found in zip(result["found"][1:], drawn, strict=True):
        h, _ = flow.dequantize.forward_and_log_det(small.astype(np.float32) + 0.5)
        for eps in own["eps"]:
            latents = np.array(eps, np.float32).reshape(1, *h.shape[1:3], 9)
            h = flow.parts[0].inverse(flow.within_range(h), [latents])
        assert_same_image(found, flow.dequantize.to_output(flow.dequantize.inverse_and_log_det(h)[0]))
    assert np.abs(drawn[0].astype(int) - drawn[1].astype(int)).max() > 1


def check_read(result):
    """Compares latents, the log-likelihood and maps with the package's; returns the bytes."""
    flow, bytes_ = preset(128), image(result["bytes"], 128)
    np.testing.assert_allclose(np.array([result["eps"]]), flow.encode(bytes_), atol=1e-3)
    np.testing.assert_allclose([result["logProb"]], flow.score(bytes_)["log_prob"], rtol=1e-3)
    maps = place_maps(flow, bytes_)
    for level in result["levels"][:-1]:
        side, count = level["side"], level["numbers"]
        log_prob, squares = np.moveaxis(maps[side, side][0].numpy(), -1, 0)
        expected = count * (8 - log_prob / np.log(2))
        np.testing.assert_allclose(np.reshape(level["bits"], (side, side)), expected, rtol=1e-3, atol=0.02)
        np.testing.assert_allclose(np.reshape(level["squares"], (side, side)), squares, rtol=1e-3, atol=1e-3)
    bits = sum(np.sum(level["bits"]) for level in result["levels"])
    np.testing.assert_allclose(bits, -result["logProb"] / np.log(2), rtol=1e-5)
    return bytes_[0]


def test_bits_and_latents_are_the_packages(page, photos, tmp_path):
    choose(page, photos)
    result = perform(page, "bits")
    bytes_ = check_read(result)
    assert result["files"]["PNG"]["lossless"]
    Image.fromarray(bytes_).save(tmp_path / "own.png")
    assert result["files"]["PNG"]["size"] < 2 * (tmp_path / "own.png").stat().st_size
    square = Image.open(photos[0]).crop((50, 0, 350, 300)).resize((128, 128), Image.Resampling.BOX)
    assert np.abs(bytes_.astype(int) - np.asarray(square)).mean() < 4  # the browser shrinks otherwise


def test_a_spoiled_corner_is_the_most_unusual_place(page, photos):
    choose(page, photos)
    result = perform(page, "unusual", spoil=True)
    check_read(result)
    heat = np.reshape(result["heat"], (128, 128))
    assert heat[16:28, 16:28].max() == heat.max()
    assert heat[16:28, 16:28].mean() > heat[40:].mean() + 1


def turned(start, end, steps):
    """Returns latents on the way between points, [1, D] → [steps, D], whose length changes evenly."""
    lengths = np.linalg.norm([start, end], axis=-1)
    units = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.sum(units[0] * units[1]))
    t = np.linspace(0, 1, steps)[:, None]
    way = (np.sin((1 - t) * angle) * units[0] + np.sin(t * angle) * units[1]) / np.sin(angle)
    return np.float32(way * ((1 - t) * lengths[0] + t * lengths[1]))


def test_mixed_images_are_what_lies_between_the_latents(page, photos):
    choose(page, photos)
    result = perform(page, "mix")
    flow = preset(64)
    ends = [use.encode(flow, image(result[which], 64)) for which in ("first", "second")]
    for eps, own in zip(ends, ("from", "to"), strict=True):
        np.testing.assert_allclose(np.array([result[own]]), eps, atol=1e-3)
    expected = use.decode(flow, turned(*ends, steps=7))
    assert_same_image(np.concatenate([image(own, 64) for own in result["images"]]), expected)
    assert_same_image(image(result["images"][0], 64), image(result["first"], 64))


def test_tabs_follow_the_keyboard(page):
    page.focus("[role=tab][aria-selected=true]")
    page.keyboard.press("Home")
    keys = {"ArrowRight": "enlarge", "End": "mix", "ArrowLeft": "unusual", "Home": "draw"}
    for key, chosen in keys.items():
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"tab-{chosen}"
        assert page.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{chosen}"
        assert [panel for panel in TABS if page.is_visible(f"#panel-{panel}")] == [chosen]
        assert page.is_visible("[data-photo=first]") == (chosen != "draw")
    page.keyboard.press("Home")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["size", "temperature", "seed", "Draw"]
    page.keyboard.press("Enter")
    page.wait_for_function(DONE, timeout=60_000)
    assert page.locator("#panel-draw figure").count() > 3
    assert page.evaluate("document.activeElement.textContent") == "Draw"


def test_a_phone_needs_no_sideways_scrolling(browser, server, photos):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page.goto(f"{server.address}/try/")
    choose(page, photos)
    for tab in TABS:
        perform(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_site_without_the_files_says_so(browser, server):
    page = browser.new_page()
    page.route("**/try/model/**", lambda route: route.fulfill(status=404))
    page.goto(f"{server.address}/try/")
    page.click("#panel-draw form button")
    page.wait_for_function(DONE)
    assert "make try" in page.inner_text("#try [role=status]")
    page.close()


def test_each_tab_loads_less_than_15_mb_over_a_slow_link(browser, server, photos):
    rows = []
    for tab in TABS:
        context = browser.new_context()
        page = context.new_page()
        link = context.new_cdp_session(page)
        link.send("Network.enable")
        link.send("Network.emulateNetworkConditions", LINK)
        server.sent = 0
        start = time.monotonic()
        page.goto(f"{server.address}/try/")
        choose(page, photos)
        page.click(f"#tab-{tab}")
        page.click(f"#panel-{tab} form button")
        computed = 3 if tab == "enlarge" else 1  # before it come what is given, and bicubic
        page.wait_for_selector(f"#panel-{tab} figure:nth-of-type({computed})", timeout=120_000)
        first = time.monotonic() - start
        page.wait_for_function(DONE, timeout=120_000)
        whole = time.monotonic() - start
        rows.append({"tab": tab, "MB": server.sent / 1e6, "first_s": first, "all_s": whole})
        assert 5e6 < server.sent < 15e6
        context.close()
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / "slow_link.json").write_text(json.dumps(rows, indent=1))
    for row in rows:
        print("{tab}: {MB:.1f} MB, first result after {first_s:.1f} s, all after {all_s:.1f} s".format(**row))
