"""`python -m benchmarks`: four comparisons, as Markdown tables. benchmarks/README.md says what each figure is."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # as a file: python benchmarks/__main__.py
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    import greenlet  # noqa: F401
except ImportError:
    sys.exit("the benchmarks need one package more: pip install greenlet")
import torch

from benchmarks import loops
from benchmarks.contest import RATIO_HEADER, contest, ratio
from benchmarks.start import start
from budgetrun.contracts import Context, Data
from budgetrun.coreset.choice import choose
from budgetrun.errors import UserError
from budgetrun.training import machine


@dataclass
class Case:
    """A training to time. block: updates a turn; the smoke run has its own, and fewer rounds."""

    name: str
    overrides: list[str]
    block: int
    rounds: int
    smoke_block: int
    on_gpu: bool = False  # alone


RANDOM = ["dataset=cifar10", "dataset._target_=benchmarks.images.RandomImages"]
CASES = [
    Case("cnn, digits, batch 64", ["dataset=digits"], 50, 40, 10),
    Case("cnn, Fashion-MNIST, batch 128", ["dataset=fashion_mnist"], 20, 30, 4),
    Case("resnet18, 3x32x32, batch 128", [*RANDOM, "+dataset.n=4096"], 1, 10, 1),
    Case("resnet18, compiled", [*RANDOM, "+dataset.n=4096", "compile=true"], 20, 20, 1, on_gpu=True),
]
FASHION = ["dataset=fashion_mnist", "budget=0.3"]
SAMPLERS = {
    "uniform": ["sampler=uniform"],
    "p_sgd": ["sampler=p_sgd"],
    "c_sgd": ["sampler=c_sgd"],
    "is, gate always open": ["sampler=is", "sampler.threshold=0"],
    "is": ["sampler=is"],
    "vr, gate always open": ["sampler=vr", "sampler.threshold=0"],
    "sb, prime=0": ["sampler=sb", "sampler.prime=0"],
    "sb_batchwise, at every batch": ["sampler=sb_batchwise", "sampler.begin=0", "sampler.interrupt=0"],
    "osgd, all rows": ["sampler=osgd"],
    "atk": ["sampler=atk"],
    "hard_batches": ["sampler=hard_batches"],
    "online_batch": ["sampler=online_batch"],
    "spv": ["sampler=spv"],
    "wpv": ["sampler=wpv"],
    "infobatch": ["sampler=infobatch"],
    "pacing": ["sampler=pacing", "sampler.order=random"],
    "self_paced, soft": ["sampler=self_paced", "sampler.use=soft"],
    "kakurenbo": ["sampler=kakurenbo"],
    "seta": ["sampler=seta"],
    "ucb": ["sampler=ucb"],
    "proxy": ["sampler=proxy"],
}
CORE_SETS = {
    "craig": ["sampler=craig"],
    "gradmatch": ["sampler=gradmatch"],
    "craig_pb": ["sampler=craig_pb"],
    "gradmatch_pb": ["sampler=gradmatch_pb"],
    "glister": ["sampler=glister", "validation=0.1"],
}
SMOKE = {"resnet18, 3x32x32, batch 128": ["batch_size=8"]}  # seconds an update otherwise


def main() -> int:
    """The exit code: 0, or 1 where a comparison cannot be made, with the reason on stderr."""
    try:
        compare()
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def compare() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="a,b,c,d", help="which comparisons, as in a,c (default: all)")
    parser.add_argument("--smoke", action="store_true", help="a few updates of each, to see that it runs")
    parser.add_argument("--device", default="auto", help="as the program's device= (default: auto)")
    parser.add_argument("--threads", type=int, help="torch's CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="a and c by the processor time of one thread: on a busy machine, where two threads wait for each other",
    )
    parser.add_argument(
        "--rounds", type=int, help="at most so many rounds of blocks (default: each case's own, 10 to 40)"
    )
    parser.add_argument("--trainings", default="", help="a and b: those of these names, as in digits,resnet18")
    options = parser.parse_args()
    cases = [case for case in CASES if any(name in case.name for name in options.trainings.split(","))]
    if not cases:
        parser.error(f"--trainings {options.trainings}: there are {'; '.join(case.name for case in CASES)}")
    wanted = options.only.split(",")
    if unknown := set(wanted) - set("abcd"):
        parser.error(f"--only takes a, b, c, d, not {', '.join(sorted(unknown))}")
    if options.cpu_time:
        options.threads, options.device = 1, "cpu"
    if options.smoke:  # on a busy machine two threads that wait for each other take minutes
        options.threads = options.threads or 1
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes that are started
    place = [f"device={options.device}"]
    device = machine.find_device(loops.composed(place).settings.device)
    about = machine.describe(device)
    versions = about["versions"]
    cases = [case for case in cases if device.type == "cuda" or not case.on_gpu]
    print(
        f"{datetime.date.today()}, {about['device']}, {processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, Python {versions['python']}, "
        f"torch {versions['torch']}"
        + (", CPU time of one thread" if options.cpu_time else "")
        + (", SMOKE RUN: its figures mean nothing" if options.smoke else "")
    )
    most = 2 if options.smoke else options.rounds or 1000
    with loops.global_flags():
        if "a" in wanted:
            table(
                "(a) Our loop against the limit (goal: at least 0.95)",
                f"uniform, standard augmentation | limit, ms per update | ours, ms per update | {RATIO_HEADER}",
                against_the_limit(cases, device, place, options.smoke, most, options.cpu_time),
            )
        if "b" in wanted:
            workers = min(8, os.cpu_count() or 1)
            table(
                f"(b) Our loop against the conventional one, {workers} workers (goal: 2 for Fashion-MNIST, 1 for all)",
                f"p-SGD, budget 0.3, standard augmentation | conventional, images/s | ours, images/s | {RATIO_HEADER}",
                against_the_conventional(cases, device, place, options.smoke, most, workers),
            )
        if "c" in wanted:
            data = loops.data_of(*FASHION, *place)
            if options.smoke:
                data = loops.first(data, 2000)
            samplers(device, [*FASHION, *place], data, options.smoke, most, options.cpu_time)
            choices(device, [*FASHION, *place], data, options.smoke, most, options.cpu_time)
    if "d" in wanted:
        first_update(place, options.smoke)


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(title: str, header: str, rows: Iterable[str]) -> None:
    """Print a table; each row as soon as it is measured."""
    rule = " | ".join("---" for _ in header.split("|"))
    print(f"\n### {title}\n\n| {header} |\n| {rule} |", flush=True)
    for row in rows:
        print(f"| {row} |", flush=True)


def against_the_limit(
    cases: list[Case], device: torch.device, place: list[str], smoke: bool, most: int, cpu_time: bool
) -> Iterator[str]:
    for case in cases:
        overrides = case.overrides + place + (SMOKE.get(case.name, []) if smoke else [])
        data = loops.data_of(*overrides)
        lanes = {"limit": loops.limit(overrides, data), "ours": loops.ours(overrides, data)}
        block, rounds = case.smoke_block if smoke else case.block, min(most, case.rounds)
        times = contest(lanes, block, rounds, device, cpu_time=cpu_time)
        of_limit = ratio(times["limit"].seconds, times["ours"].seconds)
        yield f"{case.name} | {ms(times['limit'].median)} | {ms(times['ours'].median)} | {of_limit}"


def against_the_conventional(
    cases: list[Case], device: torch.device, place: list[str], smoke: bool, most: int, workers: int
) -> Iterator[str]:
    for case in cases:
        # the draw of an epoch is the block, so that a DataLoader's workers live and die within it
        small = ["+dataset.n=64"] if smoke else ["+dataset.n=2048"]
        own = [small[0] if o.startswith("+dataset.n") else o for o in case.overrides]
        overrides = [*own, *place, "sampler=p_sgd", "budget=0.3", *(SMOKE.get(case.name, []) if smoke else [])]
        if smoke and "dataset=fashion_mnist" in own:
            overrides.append("budget=0.02")
        data = loops.data_of(*overrides)
        made = loops.composed(overrides)
        size = made.settings.batch_size
        block = loops.drawn_an_epoch(made, len(data.labels)) // size
        lanes = {
            "ours": loops.ours(overrides, data),
            "conventional": loops.conventional(overrides, data, workers),
            "with channels last": loops.conventional(overrides, data, workers, channels_last=True),
        }
        rounds = min(most, 1 if smoke else max(3, 12 // (1 + block // 40)))
        times = contest(lanes, block, rounds, device)
        for name in list(lanes)[1:]:
            gain = ratio(times[name].seconds, times["ours"].seconds)
            speeds = f"{size / times[name].median:,.0f} | {size / times['ours'].median:,.0f}"
            yield f"{case.name}, {name} | {speeds} | {gain}"


def samplers(device: torch.device, common: list[str], data: Data, smoke: bool, most: int, cpu_time: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scores = f"sampler.file={loops.random_scores(Path(folder) / 'scores.csv', data)}"
        chosen = {
            **SAMPLERS,
            "rho": ["sampler=rho", scores],
            "subset, weighted": ["sampler=subset", scores],
            # the first choice comes before what is timed
            **{f"{name}, chosen once": [*own, "sampler.every=null"] for name, own in CORE_SETS.items()},
        }
        lanes = {name: loops.ours([*common, *own], data) for name, own in chosen.items()}
        size = loops.composed(common).settings.batch_size
        proxy: Any = loops.composed([*common, *SAMPLERS["proxy"]]).sampler
        small = [*common, f"model.width={proxy.model.width}"]
        alone = {
            "update": loops.limit(common, data),
            "look": loops.forward_only(common, data),
            "update of half a batch": loops.limit([*common, f"batch_size={size // 2}"], data),
            "proxy's update": loops.limit(small, data),
            "proxy's look": loops.forward_only(small, data),
        }
        block, rounds = 3 if smoke else 20, min(most, 25)
        times = contest(lanes | alone, block, rounds, device, cpu_time=cpu_time)
    update, uniform = times["update"].seconds, times["uniform"].seconds
    cost = {name: ratio(times[name].seconds, update).median for name in alone}
    # which make passes that are not of a whole batch by the trained network
    of_others = {
        "sb_batchwise, at every batch": cost["look"] + cost["update of half a batch"],
        "proxy": 1 + cost["proxy's update"] + proxy.pool * cost["proxy's look"],
    }
    rows = []
    for name in chosen:
        # batches looked at and trained on an update, in each round
        looked, trained = ([counts[i] / (size * block) for counts in times[name].counts] for i in (0, 1))
        defined = [t + r / 3 for r, t in zip(looked, trained, strict=True)]
        measured = [of_others.get(name, t + r * cost["look"]) for r, t in zip(looked, trained, strict=True)]
        seen = times[name].seconds
        over = [
            ratio([s / p for s, p in zip(seen, predicted, strict=True)], uniform) for predicted in (defined, measured)
        ]
        shown = [ratio(seen, uniform).median, *map(statistics.mean, (looked, trained, defined, measured))]
        rows.append(
            f"{name} | {ms(times[name].median)} | {' | '.join(f'{x:.3f}' for x in shown)} | {over[1].median:.3f} | "
            f"{over[0]}"
        )
    table(
        "(c) Each sampler's update against uniform's (goal: at most 1.05 of what its definition predicts)",
        "cnn, Fashion-MNIST, budget 0.3 | ms per update | of uniform | batches looked at per update | and trained on | "
        "predicted (trained + looked / 3) | predicted by its passes alone | over that | "
        f"over the definition's: {RATIO_HEADER}",
        rows,
    )
    said = ", ".join(f"{name} {units:.3f}" for name, units in cost.items() if name != "update")
    print(f"\nPasses alone, of an update: {said}.")


def choices(device: torch.device, common: list[str], data: Data, smoke: bool, most: int, cpu_time: bool) -> None:
    """What an update of a core-set takes with its part of a choice, from the time that a choice takes by itself."""
    block, rounds = 3 if smoke else 50, min(most, 2)  # a choice may take minutes
    lanes = {
        "uniform": loops.ours(common, data, at_once=block),
        "looks": loops.ours(common, data, before=lambda context: list(map(context.embed, context.everything()))),
    }
    between = {}  # updates from one choice to the next
    for name, own in CORE_SETS.items():
        made = loops.composed([*common, *own])
        part: Any = made.sampler
        trained_on = len(data.labels) * (1 - made.settings.validation)
        between[name] = part.every * part.fraction * trained_on / made.settings.batch_size

        def chosen(context: Context, part: Any = part) -> None:
            choose(context, part.method, part.fraction, part.balanced, part.counts)

        # with the held-out examples of the method, whose updates are uniform ones
        lanes[name] = loops.ours([*common, *(o for o in own if not o.startswith("sampler"))], data, before=chosen)
    times = contest(lanes, 1, rounds, device, warm=0, cpu_time=cpu_time)
    update = [seconds / block for seconds in times["uniform"].seconds]
    looks = len(data.labels) / loops.composed(common).settings.batch_size / 3  # updates' worth
    rows = []
    for name, updates in between.items():
        choice = [seconds - one for seconds, one in zip(times[name].seconds, update, strict=True)]
        took = [1 + c / (updates * one) for c, one in zip(choice, update, strict=True)]
        predicted = 1 + looks / updates
        rows.append(
            f"{name} | {statistics.median(choice):.2f} | {times['looks'].median:.2f} | {updates:.0f} | "
            f"{statistics.median(took):.3f} | {predicted:.3f} | {ratio(took, [predicted] * len(took))}"
        )
    table(
        "(c) A core-set's update with its part of a choice, against uniform's",
        "cnn, Fashion-MNIST | a choice, s | to look at all, s | updates from choice to choice | of uniform | "
        f"predicted (1 + batches looked at / 3 per update) | over the definition's: {RATIO_HEADER}",
        rows,
    )


def first_update(place: list[str], smoke: bool) -> None:
    arguments = ["dataset=digits", *place]
    runs = [start(arguments) for _ in range(1 if smoke else 6)][0 if smoke else 1 :]  # the first warms the file cache
    phases = {
        "the command to the checked experiment": [run.built for run in runs],
        "from there to the first update's start: data, model, FLOPs": [run.asked - run.built for run in runs],
        "the first update itself, with what torch loads for it": [run.done - run.asked for run in runs],
        "**the command to the first update done**": [run.done for run in runs],
    }
    rows = [f"{name} | {statistics.median(seconds):.2f} | {min(seconds):.2f}" for name, seconds in phases.items()]
    title = "(d) From the command to the first update, digits, files in the cache"
    table(title, "phase | seconds (median) | fastest", rows)
    traced = start(arguments, traced=True)
    most = sorted(traced.imports.items(), key=lambda item: -item[1])[:10]
    rows = [f"{name} | {seconds:.2f}" for name, seconds in most]
    rows.append(f"all imports | {sum(traced.imports.values()):.2f} of {traced.done:.2f}")
    table("Where it goes: imports by package, once, with Python's import timer on", "package | seconds", rows)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


if __name__ == "__main__":
    sys.exit(main())
