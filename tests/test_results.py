"""The numbers of the README are those of the CSVs, and docs/results.md says where each is from."""

import collections
import csv
import re
import statistics

import numpy as np
import pytest
from small import ROOT

from lab import CONFIGS
from lab.benchmarks import memory, paper, rates, turns, two_devices
from lab.studies import comparison, curves
from lab.studies.study import read_study
from lab.studies.table import read_table

# The quantile of Student's t that leaves 2.5 % above, for five pairs.
T_FIVE = 2.7764
T_THREE = 4.303  # the same of three
CLAIMS = ROOT / "docs" / "results.md"
RESULTS = ROOT / "docs" / "results"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text_of(page):
    """Returns the text of a page in one line."""
    return " ".join((ROOT / page).read_text().split())


def last_epochs(path):
    """Returns variant → seed → the test bits/dim of the last epoch."""
    found = {}
    for row in rows_of(path):
        found.setdefault(row["variant"], {})[row["seed"]] = float(row["test_bpd"])
    return found


SETS = {
    ("cifar10", 45.0): "CIFAR-10",
    ("cifar10", 150.0): "CIFAR-10",
    ("photographs", 45.0): "photographs",
    ("clothes", 45.0): "Fashion-MNIST",
}
# Titles, with flow steps and images of a Glow, and over how many seeds.
LONGER = [("CIFAR-10", (8, images), 3) for images in (6400, 12800, 25600, 51200)]
LONGER += [("CIFAR-10", (8, 102400), 1), ("CIFAR-10", (12, 25600), 3), ("CIFAR-10", (12, 102400), 3)]
LONGER += [("CIFAR-10", (12, 409600), 2), ("photographs", (8, 12800), 3)]
LONGER += [("photographs, 64×64", (8, 4800), 3)]
LONGER += [("Fashion-MNIST", (9, images), 3) for images in (12800, 51200)]
GLOWS = ("glow_haar", "glow_pixels")
RUNS, SEEDS = [RESULTS / "curves.csv", RESULTS / "curves_steps.csv"], ("61", "62", "63")


@pytest.fixture(scope="module")
def beside():
    """What is said of the first three, two seeds and one seed."""
    costs = curves.seconds_per_image(RESULTS / "curves_costs.csv", RUNS)
    found = {count: curves.curves(RUNS, SEEDS[:count], costs) for count in (3, 2, 1)}
    return {count: curves.compared(own, [45.0, 150.0]) for count, own in found.items()}


def said_of(longer, count=3):
    """Returns a factor of time and its interval; a dash where a Glow's bits are not among those of levels."""
    if longer is None:
        return "–"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*longer) if count > 2 else f"{longer[0]:.1f}"


@pytest.mark.parametrize(("name", "seconds"), SETS)
def test_levels_and_glows_after_equal_time(beside, name, seconds):
    haar, pixels = (beside[3][name, flow].after[seconds] for flow in GLOWS)
    levels, flow, behind, _ = haar
    cells = [f"{seconds:g}", f"{levels:.3f}", f"{flow:.3f}", f"{behind.mean:.3f} ± {behind.half_width:.3f}"]
    row = f"| {SETS[name, seconds]} | {' | '.join(cells)} | {pixels[1]:.3f} |"
    assert row in (ROOT / "README.md").read_text()


def test_how_many_times_as_long_a_glow_takes(beside):
    page = (RESULTS / "levels.md").read_text()
    names = {title: name for (name, _), title in SETS.items()} | {"photographs, 64×64": "photographs_64"}
    for title, about, count in LONGER:
        longer = [said_of(beside[count][names[title], flow].longer.get(about), count) for flow in GLOWS]
        cells = [title, str(about[0]), f"{about[1]:,}", str(count), *longer]
        assert f"| {' | '.join(cells)} |" in page


def test_the_factors_of_time_of_the_readme(beside):
    """Over lengths and flow steps."""
    page = text_of("docs/results/levels.md")
    readme, ends = text_of("README.md"), []
    for flow in GLOWS:
        every = [own["cifar10", flow].longer for own in beside.values()]
        of_most_seeds = every[2] | every[1] | every[0]
        means = [longer[0] for longer in of_most_seeds.values()]
        ends.append(f"{min(means):.1f} to {max(means):.1f}")
    for text in (readme, page):
        assert f"takes {ends[0]} times as long" in text
        assert f"one of 2018 {ends[1]}." in text
    said = f"with Haar's squeeze {ends[0]}, of 2018 {ends[1]} |"
    assert said in row_of("a Glow's time ÷ levels', to equal bits")


def test_where_fits_would_have_both_models():
    costs = curves.seconds_per_image(RESULTS / "curves_costs.csv", RUNS)
    found = curves.fits(curves.curves(RUNS, SEEDS, costs))
    laws = [found["cifar10", model] for model in ("levels", "glow_haar")]
    assert [f"{missed:.3f}" for _, missed in laws] == ["0.009", "0.008"]
    hour, four = (laws[1][0](seconds) - laws[0][0](seconds) for seconds in (3600, 14400))
    said = f"have levels {hour:.3f} ahead after an hour, {-four:.3f} behind after four;"
    assert f"miss them by 0.009 and 0.008, and {said}" in text_of("docs/results/levels.md")


def test_the_factors_of_two_seeds_of_409600_images():
    costs = curves.seconds_per_image(RESULTS / "curves_costs.csv", RUNS)
    factors = [
        curves.compared(curves.curves(RUNS, [seed], costs), [])["cifar10", "glow_haar"].longer[12, 409600][0]
        for seed in SEEDS[:2]
    ]
    both = curves.compared(curves.curves(RUNS, SEEDS[:2], costs), [])["cifar10", "glow_haar"]
    said = "Of 409,600 images the factors are {:.1f} and {:.1f}, which tell no more than [{:.1f}, {:.1f}]."
    said = said.format(*factors, *both.longer[12, 409600][1:])
    assert said in text_of("docs/results/levels.md")


def test_the_factors_of_folds_of_photographs():
    def longer(folds):
        found = curves.curves([RESULTS / "curves_folds.csv"], folds, {})
        return curves.compared(found, [])["photographs", "glow_haar"].longer[8, 12800]

    page, folds = text_of("docs/results/levels.md"), ("70", "71", "72", "73")
    assert f"| photographs, four folds | 8 | 12,800 | 4 | {said_of(longer(folds))} | – |" in page
    own = [said_of(longer([fold]), 1) for fold in folds]
    assert f"once they are {', '.join(own[:-1])} and {own[-1]} " in page


@pytest.mark.parametrize(("name", "words"), [("cifar10", "in float32"), ("cifar10_bfloat16", "in bfloat16")])
def test_the_factor_of_time_at_width_96(name, words):
    runs = [RESULTS / "curves_96.csv"]
    costs = curves.seconds_per_image(RESULTS / "curves_96_costs.csv", runs)
    own = curves.compared(curves.curves(runs, SEEDS[:2], costs), [])[name, "glow_haar"]
    said = f"{said_of(own.longer[8, 12800])} {words}"
    assert said in text_of("docs/results/levels.md")


def test_the_factors_of_time_at_width_256():
    runs = [RESULTS / "curves_256.csv"]
    costs, factors = curves.seconds_per_image(RESULTS / "curves_256_costs.csv", runs), []
    for about, count in (((8, 12800), 2), ((8, 25600), 2), ((8, 102400), 1), ((12, 51200), 1)):
        found = curves.curves(runs, SEEDS[:count], costs)
        own = curves.compared(found, [])["cifar10_bfloat16", "glow_haar"].longer[about]
        factors.append(said_of(own, count + 1))  # of two seeds with the interval
    (levels,) = (run for run in found["cifar10_bfloat16", "levels", "61"] if run.about == (12, 51200))
    flow = found["cifar10_bfloat16", "glow_haar", "61"][-1]
    said = "{} in bfloat16, and {} after 25,600; one seed {} after 102,400, and {} of 12 steps after 51,200: "
    said = f"{said.format(*factors)}there levels have {levels.bits[0]:.3f} after {levels.seconds / 60:.0f} "
    said += f"minutes, a Glow {flow.bits[0]:.3f} after {flow.seconds / 60:.0f}."
    assert said in text_of("docs/results/levels.md")
    ends = f"{min(factors)[:3]} to {max(factors)[:3]}"
    assert f"At width 256 Haar's takes {ends} (one and two seeds);" in text_of("README.md")
    assert ends in row_of("the same of width 256, in bfloat16")


def test_the_factor_of_time_of_normflows():
    runs = [RUNS[0], RESULTS / "curves_normflows.csv"]
    costs = curves.seconds_per_image(RESULTS / "curves_normflows_costs.csv", runs)
    own = curves.compared(curves.curves(runs, SEEDS[:1], costs), [])["cifar10", "normflows"]
    (row,) = rows_of(runs[1])
    said = f"has {float(row['test_bpd']):.3f} after 12,800 images, one seed: "
    said += f"{own.longer[8, 12800][0]:.1f} times as long"
    assert said in text_of("docs/results/levels.md")


def claims():
    """Returns the table of docs/results.md that says where the README's numbers are from."""
    return CLAIMS.read_text().split("## The numbers of the README\n")[1].split("\n## ")[0]


def test_each_claim_has_a_csv():
    for line in claims().splitlines():
        if line.startswith("| ") and not line.startswith(("| claim", "| ---")):
            paths = re.findall(r"\]\((results/\w+\.csv)\)", line)
            assert paths, line
            assert all((CLAIMS.parent / path).is_file() for path in paths), line


def test_every_number_of_the_readmes_results_is_in_the_table_of_claims():
    text = (ROOT / "README.md").read_text().split("\n## Results\n")[1].split("\n## ")[0]
    text = re.sub("|".join(rf"^\| {title} \| \d+ \| .*$" for title in SETS.values()), "", text, flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for number in re.findall(r"\d+\.\d+|\d+(?= minutes)", text):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", claims()), number


def read(name):
    return list(read_table(RESULTS / f"{name}.csv"))


def row_of(claim):
    (row,) = [line for line in claims().splitlines() if line.startswith(f"| {claim}")]
    return row


def test_all_of_cifar_10():
    flow = [row for row in rows_of(RESULTS / "all_images.csv") if row["variant"] == "end_to_end"]
    levels = rows_of(RESULTS / "preset_cifar10.csv")
    for claim, rows in (("levels, all of CIFAR-10", levels), ("a Glow of 3 × 8, all of CIFAR-10", flow)):
        bpd, minutes = float(rows[-1]["test_bpd"]), float(rows[-1]["total_seconds"]) / 60
        assert f"| {bpd:.3f} after {minutes:.0f} minutes |" in row_of(claim)


def test_a_deeper_glow_is_ahead_of_the_levels_of_the_papers_length():
    (flow,) = last_epochs(RESULTS / "all_images.csv")["end_to_end"].values()
    levels = statistics.mean(last_epochs(RESULTS / "levels_paper_length.csv")["levels_deep"].values())
    assert f"| {levels - flow:.3f} behind |" in row_of("the same, against that Glow")


@pytest.mark.parametrize(
    ("name", "variant", "number", "claim"),
    [
        ("paper_length", "across_2", "{:.3f} behind", "the paper's schedule"),
        ("paper_length", "in_turn_head", "| {:.3f} behind", "with heads in turn"),
        ("levels_paper_length", "levels_deep", "| {:.3f} ahead", "levels of four steps"),
        ("heads_batch_8", "sequential_head", "| {:.2f} to", "heads at equal epochs"),
    ],
)
def test_the_difference_from_the_baseline(name, variant, number, claim):
    outcomes = comparison.outcomes(read_study(CONFIGS / "studies" / f"{name}.cfg"), read(name))
    (behind,) = [outcome.behind for outcome in outcomes if outcome.variant.name == variant]
    assert number.format(abs(behind.mean)) in row_of(claim)


def test_the_papers_schedule_at_equal_time():
    study = read_study(CONFIGS / "studies" / "paper_length.cfg")
    outcomes = {outcome.variant.name: outcome for outcome in comparison.outcomes(study, read("paper_length"))}
    end_to_end = outcomes["end_to_end_63"].test_bpd.mean
    for name, claim in (("across_2", "the paper's schedule"), ("in_turn_head", "with heads in turn")):
        seed_0, mean = outcomes[name].behind_at_equal_time.mean, outcomes[name].test_bpd.mean - end_to_end
        assert f"in equal time {seed_0:.3f}, the mean" in row_of(claim)
        assert f" {mean:.3f} |" in row_of(claim)


def test_the_memory_of_the_finest_level():
    found = {
        tuple(row[name] for name in ("side", "crop", "width", "subject", "phase")): row
        for row in rows_of(RESULTS / "memory_levels.csv")
    }
    flow, levels = "Glow 3 x 8, end to end", "levels 8, 4, 4, 4"

    def shares(crop, *sizes, subject=levels, phase="part 1", column="above_mb"):
        """Returns what each size takes, over a Glow end to end."""
        pairs = [
            (found[side, crop, width, subject, phase], found[side, "0", width, flow, "end_to_end"])
            for side, width in sizes
        ]
        return sorted(float(own[column]) / float(of_flow[column]) for own, of_flow in pairs)

    small, large = [("32", "64"), ("32", "256")], ("256", "64")
    above = shares("0", *small, large)
    whole = shares("0", *small, large, column="peak_mb")
    (crop,), (whole_crop,) = shares("64", large), shares("64", large, column="peak_mb")
    (again,) = shares("0", large, subject=f"{flow}, recomputed", phase="end_to_end")
    (together,) = shares("64", large, phase="simultaneous")
    narrow, wide = shares("0", *small, phase="simultaneous")
    text = text_of("docs/results/levels.md")
    assert f"needs {above[0]:.1f} to {above[-1]:.1f} of the memory" in text
    assert f"all levels together {wide:.1f} and {narrow:.1f}." in text
    assert f"one needs {crop:.1f}, all {together:.1f}, and a Glow that recomputes {again:.1f}." in text
    assert f"{whole[0]:.2f} to {whole[-1]:.2f}, with crops {whole_crop:.2f}.**" in text


def test_memory_against_seconds():
    rows = rows_of(RESULTS / "memory.csv")
    shares = collections.defaultdict(list)
    for size in dict.fromkeys((row["flow_steps"], row["side"]) for row in rows):
        points = memory.steps_of([row for row in rows if (row["flow_steps"], row["side"]) == size])
        time, most = points["end to end"]
        for name, (own_time, own_most) in points.items():
            shares[name].append((own_time / time, own_most / most))
    assert {len(found) for found in shares.values()} == {7}

    def of(name, column):
        found = [share[column] for share in shares[name]]
        return min(found), max(found)

    text, again = text_of("docs/performance.md"), "recomputed step by step"
    assert "two take {:.2f} to {:.2f} of the memory".format(*of("two parts", 1)) in text
    assert "four {:.2f} to {:.2f} |".format(*of("four parts", 1)) in text
    assert "| {:.2f} to {:.2f} of it, and".format(*of(f"end to end, {again}", 1)) in text
    assert "{:.1f} to {:.1f} times the time of a step".format(*of(f"end to end, {again}", 0)) in text
    assert "with two parts {:.2f} to {:.2f}.".format(*of(f"two parts, {again}", 1)) in text
    pairs = zip(shares["four parts"], shares[f"end to end, {again}"], strict=True)
    ratios = [own[1] / other[1] for own, other in pairs]
    assert f"need {min(ratios):.1f} to {max(ratios):.1f} times the memory" in text
    slowest, fastest = (1 / share for share in of("four parts", 0))
    assert f"takes {fastest:.1f} to {slowest:.1f} times as long" in text
    least, _ = of("end to end, half the batch twice", 1)
    assert f"saves up to {1 - least:.2f} of the memory" in text


def test_heads_in_longer_training():
    bpd = {row["arm"]: float(row["test_bpd"]) for row in rows_of(RESULTS / "heads_tried.csv")}
    behind = [
        bpd["3 x 16, twelve parts of 4 steps in turn"] - bpd["3 x 16, end to end, 4 epochs"],
        bpd["six parts in turn, caches filled from images"] - bpd["end to end, 8 epochs"],
    ]
    for gap in behind:
        assert f"to {gap:.2f} behind" in row_of("heads at equal epochs")


DAMAGES = {
    "square": "a black square of 4 %",
    "scratch": "a bright scratch",
    "blur": "blurred by 1 pixel",
    "noise": "noise of 6 levels",
}


def damages(model, **only):
    """Returns rows of images that are to be flagged: set → picture → rows; other pictures are "other"."""
    found = {}
    for row in rows_of(RESULTS / "damages.csv"):
        if row["model"] == model and row["auroc"] and only.items() <= row.items():
            kind = row["set"] if row["set"] in DAMAGES else "other"
            found.setdefault(kind, {}).setdefault(row["kind"], []).append(row)
    return found


def test_what_the_detector_tells():
    page = (RESULTS / "uses.md").read_text()
    for kind, title in {**DAMAGES, "other": "six other pictures"}.items():
        cells = []
        for column, good in (("auroc", "20"), ("auroc", "60"), ("auroc", "150"), ("auroc_bits", "150")):
            pictures = damages("photographs", good=good)[kind].values()
            assert {len({row["seed"] for row in own}) for own in pictures} == {3}
            means = [statistics.mean(float(row[column]) for row in own) for own in pictures]
            assert len(means) == 4
            cells.append(f"{statistics.mean(means):.3f} ({min(means):.3f})")
        assert f"| {title} | {' | '.join(cells)} |" in page
    of_damages = [
        statistics.mean(
            float(row["auroc"])
            for kind in DAMAGES
            if kind != "noise"  # which the bits alone tell as well
            for own in found[kind].values()
            for row in own
        )
        for found in (damages("photographs", good=good) for good in ("20", "60", "150"))
    ]
    said = "curve of {:.2f} from 20 good images, {:.2f} from 60 and {:.2f} from 150.".format(*of_damages)
    assert said in " ".join(page.split())
    flagged = {}
    for row in (row for row in rows_of(RESULTS / "damages.csv") if row["model"] == "photographs"):
        flagged.setdefault((row["set"], row["good"]), []).append(100 * float(row["flagged_5"]))
    good, *others = (
        [statistics.mean(flagged[kind, count]) for count in ("20", "60", "150")]
        for kind in ("good", *(kind for kind in DAMAGES if kind != "noise"))
    )
    assert f"| flagged of good images at 5 % | {' | '.join(f'{share:.1f} %' for share in good)} |" in page
    shares = " | ".join(f"{statistics.mean(of_kinds):.0f} %" for of_kinds in zip(*others, strict=True))
    assert f"| flagged of squares, scratches and blur | {shares} |" in page


def test_which_prior_tells_damages():
    found = {}
    for model in ("cifar10_small", "photographs"):
        of_kinds = damages(model, good="20", seed="0")
        other = of_kinds.pop("other")
        for about, sets in (("damages", of_kinds.values()), ("other", [other])):
            rows = [row for own in sets for picture in own.values() for row in picture]
            found[model, about] = f"{statistics.mean(float(row['auroc']) for row in rows):.3f}"
    text = text_of("docs/results/uses.md")
    said = "one seed, {} with damages where `photographs` has {}, with other pictures {} and {}."
    order = [(model, about) for about in ("damages", "other") for model in ("cifar10_small", "photographs")]
    assert said.format(*(found[key] for key in order)) in text


def test_heads_on_clothes():
    last = last_epochs(RESULTS / "heads_fashion_deep.csv")
    gaps = sorted(
        bpd - last["end_to_end"][seed]
        for variant in ("three_head", "four_head", "six_head")
        for seed, bpd in last[variant].items()
    )
    text = f"{gaps[0]:.2f} to {gaps[-3]:.2f} there, and {gaps[-1]:.2f} in two of {len(gaps)} runs"
    assert text in text_of("docs/results/heads.md")
    assert f"on clothes up to {gaps[-3]:.2f}" in CLAIMS.read_text()


def test_what_haars_squeeze_gives_a_glow_at_equal_time():
    last = last_epochs(RESULTS / "network.csv")
    line, page = row_of("levels, a Glow with Haar's squeeze"), (RESULTS / "levels.md").read_text()
    for width in ("32", "96"):
        own = last[f"levels_{width}"]
        assert len(own) == 3
        for name in ("glow_haar", "glow_pixels"):
            found = last[f"{name}_{width}"]
            pairs = [found[seed] - own[seed] for seed in own]
            half_width = T_THREE * statistics.stdev(pairs) / len(pairs) ** 0.5
            behind = f"{statistics.mean(pairs):.3f} ± {half_width:.3f}"
            assert f"| {statistics.mean(found.values()):.3f} | {behind} |" in page
            if width == "32":
                assert behind in line
                assert f"{statistics.mean(found.values()):.3f}" in line


def test_what_cuts_cost_with_haars_squeeze():
    last, costs = last_epochs(RESULTS / "squeeze_and_cuts.csv"), []
    for squeeze in ("haar", "pixels"):
        for cut in ("by_block", "across", "paper", "heads"):
            own, whole = last[f"{squeeze}_{cut}"], last[squeeze]
            costs.append(f"{statistics.mean(own[seed] - whole[seed] for seed in whole):.3f}")
    said = "by block {}, across {}, by the paper's schedule {}, with heads {}, "
    said += "where pixels lose {}, {}, {} and {} ("
    assert said.format(*costs) in text_of("docs/results/paper.md")
    pairs = [
        (last[f"pixels{cut}"], last[f"haar{cut}"]) for cut in ("", "_by_block", "_across", "_paper", "_heads")
    ]
    gains = [statistics.mean(before[seed] - after[seed] for seed in before) for before, after in pairs]
    assert (round(min(gains), 2), round(max(gains), 2)) == (0.05, 0.06)


def test_what_variational_noise_brings():
    bits = {
        (row["model"], row["noise"]): float(row["test_bpd"]) for row in rows_of(RESULTS / "noise_bounds.csv")
    }
    text = text_of("docs/results/levels.md")
    seeds, of_noise = (40, 41, 42), {}
    for noise in ("uniform", "variational"):
        for name in ("levels_32", "glow_haar_32", "glow_pixels_32"):
            own = [bits[f"{name}/seed_{seed}", noise] for seed in seeds]
            of_noise.setdefault(noise, []).append(statistics.mean(own))
    gains = [before - after for before, after in zip(*of_noise.values(), strict=True)]
    assert f"takes {min(gains):.3f} to {max(gains):.3f} from all three" in text
    said = "levels {:.3f}, a Glow with Haar's squeeze {:.3f}, of 2018 {:.3f}"
    assert said.format(*of_noise["variational"]) in text
    small = bits["cifar10_small", "uniform"] - bits["cifar10_small", "variational"]
    assert f"{small:.3f} from the preset `cifar10_small`" in text


def test_what_a_prior_is_worth():
    page, readme = (path.read_text() for path in (RESULTS / "prior.md", ROOT / "README.md"))
    rows = [row for row in rows_of(RESULTS / "prior.csv") if row["images"] == "160"]
    gains, spreads, of_tuning = [], {"prior": [], "levels": [], "glow": []}, []
    for name in dict.fromkeys(row["set"] for row in rows):
        needed = {}
        for start, spread in spreads.items():
            own = [row for row in rows if (row["set"], row["start"]) == (name, start)]
            of_seed_0 = [row for row in own if row["seed"] == "0"]
            best = min(of_seed_0, key=lambda row: float(row["validation_bpd"]))
            as_best = [row for row in own if all(row[n] == best[n] for n in ("length", "width"))]
            bits = [float(row["test_bpd"]) for row in as_best]
            assert len(bits) == 3
            assert start == "prior" or len(of_seed_0) == 6
            needed[start] = statistics.mean(bits)
            spread.append(max(bits) - min(bits))
            if start == "prior":
                untouched = float(best["untouched_bpd"])
                of_tuning += [untouched - value for value in bits]
        texts = [f"{value:.3f}" for value in (untouched, *needed.values())]
        assert f" | {' | '.join(texts)} |" in page
        assert f" | {' | '.join(texts)} |" in readme
        assert ", ".join(texts) in row_of("160 images: untouched, tuned")
        gains.append(min(needed["levels"], needed["glow"]) - needed["prior"])
    of_20 = [row for row in rows_of(RESULTS / "prior.csv") if row["images"] == "20"]
    for name in dict.fromkeys(row["set"] for row in of_20):
        texts = []
        for start in spreads:
            own = [row for row in of_20 if (row["set"], row["start"]) == (name, start)]
            bits = min(own, key=lambda row: float(row["validation_bpd"]))["test_bpd"]
            texts.append(f"{float(bits):.3f}" if bits else "diverged")
        assert f" | {' | '.join(texts)} |" in page
    text = " ".join(page.split())
    assert f"{min(gains):.2f} to {max(gains):.2f} bits/dim against the better" in text
    assert f"gains {min(of_tuning):.2f} to {max(of_tuning):.2f} of it" in text
    assert f"differ by {max(spreads['prior']):.3f} at most where tuned" in text
    assert f"by up to {max(spreads['levels'] + spreads['glow']):.2f} where not" in text


def test_the_bits_at_many_sizes():
    page = (RESULTS / "prior.md").read_text()
    for kind in ("photograph", "drawing"):
        found = [row for row in rows_of(RESULTS / "sizes.csv") if row["kind"] == kind]
        model = [float(row["model_bpd"]) for row in found]
        best = [min(float(row[f"jpeg_xl_{effort}_bpd"]) for effort in (7, 9, 10)) for row in found]
        ahead = [float(row["ahead_of_best_jpeg_xl_bpd"]) for row in found]
        within = [2 * float(row["standard_error"]) for row in found]
        assert ahead == pytest.approx([b - m for b, m in zip(best, model, strict=True)], abs=2e-4)
        for bits in (model, best):
            assert f"| {' | '.join(f'{value:.2f}' for value in bits)} |" in page
        cells = [f"{gap:.2f} ± {error:.2f}" for gap, error in zip(ahead, within, strict=True)]
        assert f"| ahead by | {' | '.join(cells)} |".replace("-", "−") in page


def test_what_images_unlike_any_other_need():
    page = (RESULTS / "prior.md").read_text()
    rows = rows_of(RESULTS / "unlike.csv")
    drawn = [row["above_16_bpd"] for row in rows if row["images"] == "1000"]
    assert f"Of 1,000 random ones {drawn[0]} and {drawn[1]} do" in " ".join(page.split())
    tuned = [row for row in rows if "_prior" in row["model"]]
    for images, text in (("54", "{} to {} of the 54 do"), ("1000", "and {} to {} of the 1,000")):
        counts = [int(row["above_16_bpd"]) for row in tuned if row["images"] == images]
        assert len(counts) == 15
        assert text.format(min(counts), max(counts)) in " ".join(page.split())
    found = {row["model"]: row for row in rows if row["images"] == "54"}
    assert [found[own]["above_16_bpd"] for own in ("photographs", "photographs_grey")] == ["3", "5"]
    for model in ("photographs", "photographs_grey"):
        assert f"{float(found[model]['worst_bpd']):,.0f}" in page
    assert max(float(row["worst_with_floor_bpd"]) for row in rows) == 8.02


def test_which_defects_the_detector_sees():
    text, rows = text_of("docs/results/uses.md"), rows_of(RESULTS / "defects.csv")
    own = [row for row in rows if (row["split"], row["method"]) == ("fixed", "features")]
    words = own[0]["auroc_of_kinds"].split()
    areas = {kind: float(area) for kind, area in zip(words[::2], words[1::2], strict=True)}
    counts = {"blowhole": 80, "break": 60, "crack": 42, "fray": 32, "uneven": 74}  # tested
    mean = sum(areas[kind] * counts[kind] for kind in counts) / sum(counts.values())
    assert f"{mean:.3f}" == own[0]["auroc"]
    uneven = areas.pop("uneven")
    others = sum(areas[kind] * counts[kind] for kind in areas) / sum(counts[kind] for kind in areas)
    assert f"Cracks are told with {areas['crack']:.3f}, " in text
    assert f"with {uneven:.3f}; the other kinds but this one with {others:.3f}." in text
    flagged = [f"{100 * float(row['flagged_5']):.1f}" for row in own]
    assert f"flags {min(flagged, key=float)} to {max(flagged, key=float)} %" in text
    for line in defect_lines(rows, "16 32"):
        name, *cells = line
        at_random = [row for row in rows if row["split"] == "random" and row["method"] == name]
        cells += [at_random[0]["auroc"]]
        assert f"| {DEFECTS[name]} | {' | '.join(cells)} |" in text.replace("**", "")


def test_what_the_detector_sees_of_boards():
    text, rows = text_of("docs/results/uses.md"), rows_of(RESULTS / "boards.csv")
    own = [float(row["flagged_5"]) for row in rows if row["method"] == "features"]
    for name, *cells in defect_lines(rows, "8 16 32"):
        cells += [f"{statistics.mean(own):.1%}".replace("%", " %") if name == "features" else "–"]
        assert f"| {DEFECTS[name]} | {' | '.join(cells)} |" in text.replace("**", "")


DEFECTS = {
    "features": "the detector",
    "neighbours": "nearest neighbours (as PatchCore)",
    "gaussians": "one Gaussian per scale",
}


def defect_lines(rows, strides):
    """Each method and its three areas, means over seeds, with the strides that are its best for images."""
    text = text_of("docs/results/uses.md")
    for name in DEFECTS:
        found = [row for row in rows if (row["split"], row["method"]) == ("fixed", name)]
        if name == "features":
            assert {row["strides"] for row in found} == {strides}
            areas = sorted(row["auroc"] for row in found)
            assert f"{areas[0]} to {areas[-1]}" in text
            assert len(found) == 3
        else:
            best = max(found, key=lambda row: float(row["auroc"]))
            assert len(found) == 2
            assert best["strides"] == strides
            found = [best]
        columns = ("auroc", "pixel_auroc", "pro")
        yield name, *(f"{statistics.mean(float(row[own]) for row in found):.3f}" for own in columns)


def test_what_rates_the_detector_keeps():
    text, rows = text_of("docs/results/uses.md"), rows_of(RESULTS / "rates.csv")
    lines = rates.table(rows)
    assert len(lines) == 12
    for line in lines:
        assert line in text
    kept = [line.split(" | ") for line in lines if "as they are" in line]
    shares = [float(cells[3]) for cells in kept if cells[2] == "0.05"]
    assert f"{statistics.mean(shares):.1%} are flagged".replace("%", " %") in text
    inside, counts = (sum(int(cells[4].split(" of ")[own]) for cells in kept) for own in (0, 1))
    assert f"{inside / counts:.0%} are.".replace("%", " %") in text
    assert f"Of the {counts - inside} others" in text
    told = {"tiles": "yes"}
    outside = [
        (row["set"], row["good"], int(row["flagged"]) < int(row["low"]))
        for row in rows
        if row["grouped"] == told.get(row["set"], "no")
        and not int(row["low"]) <= int(row["flagged"]) <= int(row["high"])
    ]
    assert [name for name, *_ in outside].count("tiles") == 7
    assert [(good, below) for _, good, below in outside].count(("60", True)) == 6
    own = [row for row in rows if (row["set"], row["grouped"], row["rate"]) == ("tiles", "no", "0.05")]
    by_count = [
        statistics.mean(int(row["flagged"]) / int(row["new"]) for row in own if row["good"] == count)
        for count in {row["good"] for row in own}
    ]
    assert f"it is {100 * min(by_count):.0f} to {max(by_count):.0%}".replace("%", " %") in text


def test_what_it_costs_to_train_levels_apart():
    text = text_of("docs/results/levels.md")
    bits = {}
    for row in rows_of(RESULTS / "separability.csv"):
        of_seeds = bits.setdefault(row["variant"], {})
        of_seeds[row["seed"]] = min(float(row["test_bpd"]), of_seeds.get(row["seed"], 9.0))
    names = ("levels_together", "levels", "glow_pixels", "glow_haar")
    said = (
        "levels end to end have {:.3f}, in parts {:.3f}, where a Glow has {:.3f}, with Haar's squeeze {:.3f}"
    )
    assert said.format(*(statistics.mean(bits[name].values()) for name in names)) in text
    gaps = [bits["levels"][seed] - own for seed, own in bits["levels_together"].items()]
    assert len(gaps) == 3
    half_width = T_THREE * statistics.stdev(gaps) / len(gaps) ** 0.5
    assert f"train them apart costs {statistics.mean(gaps):.3f} ± {half_width:.3f}" in text


def test_what_an_autoregressive_model_needs():
    page = text_of("docs/results/levels.md")
    found, widths = {}, []
    for row in rows_of(RESULTS / "autoregressive.csv"):
        if row["scored"] == "test" and row["width"] == ("24" if int(row["seconds"]) < 300 else "32"):
            assert float(row["test_bpd_se"]) < 0.0215
            found.setdefault(row["seconds"], []).append(float(row["test_bpd"]))
        if row["scored"] == "validation":
            widths.append((float(row["test_bpd"]), row["width"]))
    assert min(widths)[1] == "24"
    assert len(widths) == 9
    seconds = ("60", "120", "240", "480", "960")
    (long,) = found.pop("8460")
    assert {own: len(found[own]) for own in found} == dict.fromkeys(seconds, 3)
    means = [f"{statistics.mean(found[own]):.3f}" for own in seconds]
    assert "{}, {} and {} bits/dim after 60, 120 and 240".format(*means[:3]) in page
    assert "{} after 480 and {} after 960".format(*means[3:]) in page
    assert ", ".join(means) in row_of("autoregressive, 60")
    halves = [T_THREE * statistics.stdev(found[own]) / 3**0.5 for own in seconds]
    assert f"± {', '.join(f'{own:.3f}' for own in halves)}" in page
    of_141 = f"{means[2]} after four, {means[4]} after sixteen, and {long:.3f} after 141"
    assert of_141 in text_of("README.md")
    assert f"{long:.3f} (one seed)" in page
    assert f"{long:.3f}" in row_of("autoregressive, 141")


def test_how_far_enlarging_is_ahead_of_bicubic():
    page = text_of("docs/results/uses.md")
    sets = [
        {row["method"]: row for row in rows_of(RESULTS / f"upscaling_{name}.csv")}
        for name in ("photographs", "levels")
    ]
    titles = {"repeated pixels": "repeated pixels", "upscale": "the model, at temperature 0"}
    titles |= {name: name for name in ("bicubic", "bicubic, means corrected")}
    for method, title in titles.items():
        cells = [f"{float(found[method]['psnr_db']):.2f}" for found in sets]
        assert f"| {title} | {' | '.join(cells)} |" in page
    ahead = [
        [f"{float(own[name]['upscale_ahead_by_db']):.1f}" for own in sets]
        for name in ("bicubic", "bicubic, means corrected")
    ]
    errors = [f"{float(own['bicubic']['standard_error_db']):.1f}" for own in sets]
    said = f"{ahead[0][0]} ± {errors[0]} dB ahead of bicubic interpolation on photographs of 1280×960, "
    assert f"{said}{ahead[0][1]} ± {errors[1]} on CIFAR-10" in page
    assert f"they must have, {ahead[1][0]} and {ahead[1][1]}.**" in page


def test_what_bfloat16_costs():
    outcomes = comparison.outcomes(read_study(CONFIGS / "studies" / "precision.cfg"), read("precision"))
    (behind,) = [outcome.behind for outcome in outcomes if outcome.behind]
    ends = [f"{sign * behind.half_width - behind.mean:.4f}".replace("-", "−") for sign in (-1, 1)]
    page = (ROOT / "docs" / "performance.md").read_text()
    assert f"{-behind.mean:.4f} [{ends[0]}, {ends[1]}] ahead" in page


def test_the_small_configurations():
    page, seconds, last = (RESULTS / "time.md").read_text(), {}, {}
    for row in rows_of(RESULTS / "small_configs.csv"):
        seconds[row["config"]] = seconds.get(row["config"], 0.0) + float(row["seconds"])
        last[row["config"]] = f"{float(row['test_bpd']):.3f} ± {float(row['test_bpd_se']):.3f}"
    assert len(last) == 6
    for name, bits in last.items():
        assert re.search(rf"\| `{name}\.cfg`.* \| {bits} \| {seconds[name]:.0f} \|", page), name


def test_how_far_equalized_levels_are_ahead():
    last = last_epochs(RESULTS / "levels_flat.csv")
    gaps = [last["shallower"][seed] - own for seed, own in last["levels"].items()]
    assert len(gaps) == 5
    said = f"by {statistics.mean(gaps):.3f} ± {T_FIVE * statistics.stdev(gaps) / 5**0.5:.3f}.**"
    assert said in text_of("docs/results/levels.md")


def test_each_csv_and_figure_is_cited_by_a_page():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages if page.name != "history.md")
    for path in sorted(RESULTS.glob("*.*")):
        assert path.suffix == ".md" or re.search(rf"\b{re.escape(path.name)}\b", text), path


def test_history_fits_on_one_page():
    assert len((ROOT / "docs" / "history.md").read_text().split()) <= 900


def test_how_often_commands_were_killed():
    rows = rows_of(RESULTS / "kills.csv")
    page = " ".join((ROOT / "docs" / "reliability.md").read_text().split())
    counts = collections.Counter((row["command"], row["signal"]) for row in rows)
    assert f"**{len(rows)} kills at random moments" in page
    assert f"training by SIGKILL {counts.pop(('train', 'KILL'))} times" in page
    assert len(counts) == 15
    assert set(counts.values()) == {30}
    ended = [row for row in rows if row["status"] not in ("0", "130", "-2", "-9")]  # by no sentence
    assert all(float(row["seconds"]) < 1 or row["after"] == "new" for row in ended)


def test_what_runs_of_the_study_paper_cost():
    runs = turns.runs_of_variants("paper")
    page, found = (ROOT / "docs" / "performance.md").read_text(), {}
    for name, ratios in turns.whole_runs(runs, rows_of(RESULTS / "paper_costs.csv")).items():
        assert len(ratios) == 7
        low, median, high = np.percentile(ratios, (2.5, 50, 97.5))
        predicted = runs[name].cost() / runs["end_to_end"].cost()
        found[name] = low <= predicted <= high
        if "end_to_end" not in name and name not in ("pixels", "across_2_sequential"):
            said = f"| `{name}` | {median:.2f} [{low:.2f}, {high:.2f}] | {predicted:.2f} |"
            assert said in page
    assert [name for name, fits in found.items() if not fits] == ["across_2_simultaneous_head"]


def test_the_page_of_the_paper_has_a_line_for_each_variant_that_ran():
    page = text_of("docs/results/paper.md")
    found = paper.costs(read("paper"), paper.times_of(RESULTS / "paper_costs.csv"))
    for name, cost in found.items():
        assert paper.row_of(name, cost) in page
    for name in ("across_2", "across_2_parts_alone"):
        for gap in (found[name].behind, found[name].at_equal_time):
            ends = gap.mean - gap.half_width, gap.mean + gap.half_width
            assert "{:.3f} [{:.3f}, {:.3f}] behind".format(gap.mean, *ends) in page, name
    assert f"{found['across_2_head'].behind.mean:.3f} at equal epochs" in page
    for name, said in (
        ("across_2_simultaneous_alone", "simultaneously"),
        ("across_2_simultaneous_head", "it is"),
    ):
        assert f"{said} {found[name].behind.mean:.3f} [" in page
    assert f"in {found['across_2_simultaneous_head'].time:.2f} of the time on one device" in page
    readme = text_of("README.md")
    for gap, said in (
        (found["across_2"].behind, "worse"),
        (found["across_2"].at_equal_time, "in equal time"),
    ):
        assert f"{gap.mean:.3f} ± {gap.half_width:.3f} {said}".replace("worse", "bits/dim worse") in readme
    rows = read("paper") + read("paper_deep")
    assert {(row["device"].split(",")[0], row["outcome"]) for row in rows} == {("AMD EPYC", "finished")}
    deep = {name: own["0"] for name, own in last_epochs(RESULTS / "paper_deep.csv").items()}
    cost = deep["across_2"] - deep["end_to_end"]
    assert f"{cost:.3f} behind, {deep['across_2']:.3f} against {deep['end_to_end']:.3f}" in page


def test_what_two_devices_give():
    page = (ROOT / "docs" / "distributed.md").read_text()
    found = two_devices.compared(rows_of(RESULTS / "two_devices.csv"))
    assert list(found) == list(two_devices.VARIANTS)
    whole = [bits for _, _, bits in found["one process, end to end"]]
    for name, seeds in found.items():
        assert len(seeds) == 3
        seconds, waits, bits = (sorted(own) for own in zip(*seeds, strict=True))
        cells = [name, f"{seconds[0]:.1f} to {seconds[-1]:.1f}", f"{waits[0]:.0%} to {waits[-1]:.0%}"]
        mean = statistics.mean(bits)
        half_width = T_THREE * statistics.stdev(bits) / len(bits) ** 0.5
        assert f"| {' | '.join([*cells, f'{mean:.2f} ± {half_width:.2f}'])} |".replace("%", " %") in page
    for name, said in (("parts on two devices", "behind one"), ("replicas on two devices", "")):
        behind = [own[2] - bits for own, bits in zip(found[name], whole, strict=True)]
        half_width = T_THREE * statistics.stdev(behind) / len(behind) ** 0.5
        assert f"{statistics.mean(behind):.2f} ± {half_width:.2f} {said}".strip() in " ".join(page.split())


def test_images_of_another_kind():
    table = (ROOT / "docs" / "results" / "uses.md").read_text().splitlines()
    found = rows_of(RESULTS / "kinds.csv")
    assert len(found) == 7
    for row in found:
        way = row["way"] if row["way"] == "pixels" else f"features, {row['way']}²"
        shares = [f"{float(row[name]):.3f}" for name in ("other_flagged_at_1", "other_flagged_at_5", "said")]
        cells = [f"{int(row['count']):,} {row['good']}", way, *shares, f"{float(row['wall_seconds']):.0f}"]
        assert f"| {' | '.join(cells)} |" in table
        assert 0.0085 < float(row["good_flagged_at_1"]) < 0.0215
