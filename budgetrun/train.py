"""THE experiment: this one loop trains every method.

The step, in order: plan, look, choose, augment (all in the sampler's `draw`), forward, observe, weigh, backward,
charge. A sampler cannot look for free: every means of looking that it is given charges the budget.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from budgetrun import memory
from budgetrun.config import Experiment
from budgetrun.contracts import (
    Batch,
    ChangesSize,
    Context,
    Data,
    Model,
    Random,
    Sampler,
    ScalesRate,
    Selects,
    Settings,
    Stateful,
    UserError,
)
from budgetrun.errors import STOPPING, Abandoned, Interrupted, heard
from budgetrun.folder import scorefile
from budgetrun.folder.run import FINISHED, RunFolder
from budgetrun.training import machine
from budgetrun.training.branches import Branch, Branches
from budgetrun.training.budget import Budget, full_updates
from budgetrun.training.checkpoint import Checkpoint, Unloadable
from budgetrun.training.checks import check_calls, check_parts, check_views, outline
from budgetrun.training.data import context_of, prepare, trained_shape
from budgetrun.training.diagnostics import Diagnostics
from budgetrun.training.draws import Draws
from budgetrun.training.earlier import Earlier
from budgetrun.training.files import Files
from budgetrun.training.frozen import Frozen
from budgetrun.training.looks import Looks, SecondNetwork, check_features
from budgetrun.training.network import Network
from budgetrun.training.progress import plan, shown
from budgetrun.training.rates import aim
from budgetrun.training.record import Diverged, Record
from budgetrun.training.returned import check_batch, check_freezing, check_state
from budgetrun.training.summary import said_before, say
from budgetrun.training.trackers import Trackers
from budgetrun.training.views import Views
from budgetrun.training.weights import begin_with
from budgetrun.training.world import World, met

log = logging.getLogger("budgetrun")
STREAMS = ("sampler", "aug", "scores")  # of random numbers
READ_EVERY = 200  # updates: the most until a loss that is not a number is noticed


def run(experiment: Experiment) -> dict[str, Any]:
    """The result of an experiment: the one that exists, or else a trained one, from its checkpoint if there is one."""
    settings = experiment.settings
    world = met(settings.device)
    folder = world.folder(RunFolder(settings.output_dir, experiment.run_id))
    if not settings.force and (result := folder.finished()):
        log.info(said_before(result))
        if (tags := result["config"].get("tags", [])) != settings.tags:
            log.info("its tags stay as they were: %s", ", ".join(tags) or "none")
    else:
        try:
            with machine.profile(settings.deterministic), memory.explained(), Trackers() as trackers:
                result = trained(experiment.choose() if experiment.choose else experiment, folder, world, trackers)
        except (Exception, SystemExit) as error:
            spent = error.flops if isinstance(error, Diverged) else None
            if isinstance(error, Diverged):
                error = UserError(f"{error}; {folder.last_checkpoint()}; try a smaller lr")
            if isinstance(error, SystemExit):  # by a component: it would end a sweep, perhaps with exit code 0
                here = error.__traceback__
                error = RuntimeError(f"a part of the run called sys.exit({error.code})").with_traceback(here)
            folder.fail(error, spent)
            raise error
        finally:
            folder.close()
            if settings.compile:
                torch.compiler.reset()  # else the runs of a process together soon reach torch's limit of 8 compilations

    say(result, folder.result_path)
    return result


def trained(experiment: Experiment, folder: RunFolder, world: World, trackers: Trackers) -> dict[str, Any]:
    """Train, from the checkpoint if it can be loaded, else from the beginning."""
    sampler, scores = copy.deepcopy((experiment.sampler, experiment.scores))  # the parts that have state
    with contextlib.suppress(Unloadable):
        return train(experiment, folder, world, trackers)
    # with the copies: the originals may be half loaded
    return train(replace(experiment, sampler=sampler, scores=scores), folder, world, trackers)


def train(experiment: Experiment, folder: RunFolder, world: World, trackers: Trackers) -> dict[str, Any]:
    """Train to the end of the budget, and write the result into the run's folder.

    world: the processes that do so together; each goes through this function. trackers: where it is logged besides.
    """
    began = time.perf_counter()
    settings, sampler, scorer = experiment.settings, experiment.sampler, experiment.scores
    device = check_parts(experiment)

    # ---- data, as uint8, on the device unless they are too many
    data, fingerprint = prepare(experiment, device)
    check_views(experiment, data)
    check_calls(experiment, data)

    # ---- randomness: one stream per purpose, so that no method changes another's draws
    torch.manual_seed(settings.seed)  # initial weights and dropout
    random, aug_random, scores_random = (Random.seeded(settings.seed, of, device) for of in STREAMS)
    view = Views(data, experiment.aug, aug_random, lambda: budget.progress)

    # ---- network and budget
    network = Network(experiment.model, experiment, data, device, world)
    if settings.compile:
        network.compile(data.images, sizes_of(sampler, settings.batch_size))
    if experiment.freeze is not None:
        check_freezing(experiment.freeze, len(network.layers))
    budget = budget_of(experiment, data, network)
    if settings.init_from is not None:
        scorefile.count(budget.before, begin_with(settings.init_from, network.net))

    # ---- the method: what it is given, and what it is told of each update
    earlier = Earlier(fingerprint, data, budget)
    context = context_in(experiment, folder, data, earlier, random, view, network, budget)
    if settings.save_features:
        context.needs_features()
    diagnostics = Diagnostics(data, budget, view, sampler)
    branches = Branches(experiment, budget, world, lambda: Diagnostics(data, budget, view, sampler))
    interruption = world.interruption()
    sampler.start(context)
    check_state(sampler)
    if scorer is not None:
        scorer.start(replace(context, random=scores_random))

    def observe(batch: Batch, losses: Tensor, logits: Tensor) -> None:
        sampler.observe(batch, losses, logits)
        if scorer is not None:
            scorer.observe(batch, losses, logits)
        diagnostics.observe(batch)
        branches.observe(batch)
        interruption.end_long()  # the update of the weights comes next

    # ---- the folder: from here on files are written; an interrupted run goes on
    folder.open()
    if settings.force:
        folder.start_over()
    elif result := folder.finished():  # meanwhile, by another process
        return result
    record = Record()
    parts: dict[str, Stateful] = {"sampler": sampler, "budget": budget, "record": record, "diagnostics": diagnostics}
    parts |= {"random": random, "aug_random": aug_random, "scores_random": scores_random}
    parts["global_random"] = world.random(machine.GlobalRandom(device), settings.seed)
    if scorer is not None:
        parts["scores"] = scorer
    if branches.live:
        parts["branches"] = branches
    frozen = Frozen(network, experiment.freeze, budget)
    if experiment.freeze is not None:
        parts["frozen"] = frozen
    checkpoint = Checkpoint(folder, network, parts, must_agree(experiment, fingerprint, device), began)
    if checkpoint.restore():
        log.info("%s goes on from update %d", folder.path, budget.updates)
    for line in plan(experiment, data, network, budget):
        log.info(line)
    folder.write_config(experiment.resolved)
    files = Files(experiment, folder, data, fingerprint, budget, network, checkpoint.source)
    if isinstance(sampler, Selects):
        files.kept(sampler)
    folder.write_metrics(record.metrics)
    if world.rank == 0:
        trackers.open(experiment, folder.path, record.metrics)

    def save() -> None:
        with budget.paused():
            network.check_finite(budget.updates)
            checkpoint.write()

    def evaluate(share: float, branch: Branch | None = None) -> None:
        curve, counts = (branch.record, branch.diagnostics) if branch else (record, diagnostics)
        with budget.paused():
            interruption.begin_long()
            values = evaluations(network, data)
            interruption.end_long()
            line = {"progress": share, "lr": network.lr, "train_loss": curve.mean_loss(), **values}
            line |= budget.realised() | counts.line()
            curve.metrics.append(line)
            if branch is None:
                folder.append_metrics(line)
                trackers.log(line)
                progress.evaluated(line)

    def evaluate_if_due(share: float, branch: Branch | None = None) -> None:
        curve = branch.record if branch else record
        due = int(settings.evaluations * share) if budget.updates else 0
        if due > curve.evaluations:
            evaluate(share, branch)
            curve.evaluations = due
        elif budget.updates % READ_EVERY == 0:
            curve.read()

    # ---- the loop
    draws = Draws(sampler, scorer)
    scaling = sampler if isinstance(sampler, ScalesRate) else None
    with heard(STOPPING, interruption), network.as_compiled(), telling(budget), shown(budget) as progress:
        budget.start()
        try:
            while True:
                share = budget.share
                evaluate_if_due(share)
                for branch in branches.live.values():
                    evaluate_if_due(branch.budget(budget).share, branch)
                branches.leave(checkpoint)
                stop, save_is_due = world.agreed(interruption.signum or 0, checkpoint.age() > settings.checkpoint_every)
                if stop:
                    interruption.signum = stop
                    raise Abandoned  # between two updates
                if share == 1 and budget.updates:  # a budget of few seconds may be spent before the first
                    break

                network.lr, network.momentum = aim(experiment, budget)
                frozen.follow()
                if world.size == 1 and draws.may_take_long:
                    with budget.paused():
                        checkpoint.keep()
                    interruption.begin_long()
                with draws.timed(), diagnostics.drawing(), branches.drawing():
                    batch = sampler.draw()  # plan, look, choose, augment
                check_batch(batch, settings.batch_size)
                if scaling is not None:
                    network.lr *= scaling.lr_factor
                loss = network.update(batch, observe)
                record.add(loss, network.lr)
                branches.add(loss, network.lr)
                checkpoint.forget()
                budget.charge_update(batch.passed, network.cost(batch.images).update)
                progress.step()
                if save_is_due:
                    save()
        except Abandoned:
            save()
            raise interrupted(settings, budget.updates, interruption.signum or 0) from None
        save()

    # ---- the result
    if scorer is not None:
        files.scores(scorer)
    files.selected(diagnostics)
    if settings.save_features:
        files.features(context)
    result = result_of(experiment, data, fingerprint, record, budget, earlier, network, checkpoint)
    trackers.finish(result)  # first: a finished run is not gone back to
    folder.finish(result)
    return result


def must_agree(experiment: Experiment, fingerprint: str, device: torch.device) -> dict[str, str]:
    """What a checkpoint must have in common with the run that goes on from it."""
    found = {"run": experiment.run_id, "dataset fingerprint": fingerprint, "device type": device.type}
    if "tuned" in experiment.tuned:  # its tuning runs may have been made again
        found["tuned value"] = str(experiment.tuned["tuned"]["value"])
    return found


def interrupted(settings: Settings, updates: int, signum: int) -> Interrupted:
    """What a run that was asked to stop and has saved says."""
    again = ", without force=true," if settings.force else ""
    return Interrupted(f"saved at update {updates}; run the same command again{again} to go on", signum)


@contextlib.contextmanager
def telling(budget: Budget) -> Iterator[None]:
    """A run that diverges says what it spent, which is a cost of tuning."""
    try:
        yield
    except Diverged as error:
        error.flops = budget.flops
        raise


def budget_of(experiment: Experiment, data: Data, network: Network) -> Budget:
    """What the run may spend; the full training run's seconds are measured if they count and are not given."""
    settings = experiment.settings
    full, full_seconds = full_updates(settings, len(data.labels)), settings.full_seconds or 0.0
    if settings.budget_unit == "seconds" and not full_seconds:
        full_seconds = network.world.seconds(full * network.seconds_per_update(experiment, data))
        log.info(
            "a full training run takes %.1f s here, as measured; set full_seconds for comparable runs", full_seconds
        )
    budget = Budget.of(settings, full, network.flops, full_seconds, network.device)
    budget.clock = network.world.seconds
    return budget


def result_of(
    experiment: Experiment,
    data: Data,
    fingerprint: str,
    record: Record,
    budget: Budget,
    earlier: Earlier,
    network: Network,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """The run's configuration, its final evaluation, what it spent, and the code and machine that made it."""
    last = {key: value for key, value in record.metrics[-1].items() if key not in ("progress", "lr")}
    return {
        "run_id": experiment.run_id,
        "status": FINISHED,
        "names": experiment.names,
        "config": experiment.resolved,
        **last,
        "flops_before": budget.flops_before,
        "flops_uniform": budget.updates * experiment.settings.batch_size * network.flops.update,
        "flops_shared": budget.shared,
        **experiment.tuned,
        "scored_by": ",".join(earlier.scored_by) or None,
        "seconds_total": checkpoint.seconds(),
        "processes": network.world.size,
        "n_parameters": sum(p.numel() for p in network.net.parameters()),
        "n_training": len(data.labels),
        "n_corrupted": 0 if data.corrupted is None else int(data.corrupted.sum()),
        "dataset_fingerprint": fingerprint,
        "commit": checkpoint.source,
        "dirty": checkpoint.dirty,
        "commits_before": checkpoint.commits,
        **machine.describe(network.device),
    }


def context_in(
    experiment: Experiment,
    folder: RunFolder,
    data: Data,
    earlier: Earlier,
    random: Random,
    view: Views,
    network: Network,
    budget: Budget,
) -> Context:
    """What a method is given in a run; all access to the network charges the budget."""
    part = experiment.settings.batch_size
    looks = Looks(network, budget, part)

    def second(kind: Model) -> SecondNetwork:
        return SecondNetwork(Network(kind, experiment, data, network.device, network.world), network, budget, part)

    return context_of(
        experiment.settings,
        data,
        random,
        view,
        experiment.select,
        earlier.scores,
        earlier.kept,
        earlier.features,
        network.world.state_folder(folder.state_path),
        needs_features=lambda: check_features(
            outline(experiment.model, data, experiment.settings), trained_shape(data, experiment.settings)
        ),
        progress=lambda: budget.progress,
        look=looks.look,
        embed=looks.embed,
        gradient_norms=looks.gradient_norms,
        logit_gradients=looks.logit_gradients,
        second=second,
    )


def sizes_of(sampler: Sampler, usual: int) -> set[int]:
    """The sizes of the batches that are trained on or looked at."""
    return {usual, *(sampler.sizes(usual) if isinstance(sampler, ChangesSize) else ())}


def evaluations(network: Network, data: Data) -> dict[str, float]:
    """Accuracy and loss on the test set, and on the held-out part if there is one. Changes nothing."""
    values: dict[str, float] = {}
    values["test_accuracy"], values["test_loss"] = network.evaluate(data.test_images, data.test_labels)
    if data.val_images is not None and data.val_labels is not None:
        values["val_accuracy"], values["val_loss"] = network.evaluate(data.val_images, data.val_labels)
    return values
