"""THE experiment: every method is trained by this one loop.

The step, in order: plan, look, choose, augment (all in the sampler's `draw`), forward, observe, weigh, backward,
charge. A sampler cannot look without paying: what it is given to look with charges the budget.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from budgetrun import memory
from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Context, Model, OfPart, Random, Stateful, TakesLong, UserError
from budgetrun.errors import STOPPING, Abandoned, Interrupted, Interruption, heard
from budgetrun.folder import scorefile
from budgetrun.folder.run import FINISHED, RunFolder, check_made, commit
from budgetrun.identity import made_files
from budgetrun.training import machine
from budgetrun.training.budget import Budget, full_updates, model_flops
from budgetrun.training.checks import check_memory, check_parts, check_views, outline
from budgetrun.training.data import Normalize, digest, held_out, prepare
from budgetrun.training.diagnostics import Diagnostics
from budgetrun.training.looks import Looks, SecondNetwork
from budgetrun.training.progress import shown
from budgetrun.training.record import Diverged, Record
from budgetrun.training.summary import BEFORE, say
from budgetrun.training.views import Views

log = logging.getLogger("budgetrun")
Observe = Callable[[Batch, Tensor, Tensor], None]
READ_EVERY = 200  # updates after which a loss that is not a number is noticed at the latest
LONG = 0.5  # seconds of a draw, after one of which the next can be abandoned
# what a draw and the forward pass after it leave alone, beside the weights of the model
LEFT_ALONE = ("model", "optimizer", "record")


def run(experiment: Experiment) -> dict[str, Any]:
    """The result of an experiment: the one that is there, else trained, from its checkpoint where it has one."""
    settings = experiment.settings
    folder = RunFolder(settings.output_dir, experiment.run_id)
    if not settings.force and (result := folder.finished()):
        log.info(BEFORE)
    else:
        try:
            with machine.profile(settings.deterministic), memory.explained():
                result = trained(experiment, folder)
        except (Exception, SystemExit) as error:
            if isinstance(error, Diverged):
                error = UserError(f"{error}; {folder.last_checkpoint()}; try a smaller lr")
            if isinstance(error, SystemExit):  # of a component: it would end a sweep, perhaps as if all were well
                error = RuntimeError(f"a part of the run called sys.exit({error.code})")
            folder.fail(error)
            raise error
        finally:
            folder.close()

    say(result, folder.result_path)
    return result


class Unloadable(Exception):
    """The checkpoint fits no part of the run, or not all, and is set aside; what was loaded of it is of no use."""


def trained(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    """Train, from the checkpoint where that can be, else from the beginning."""
    sampler, scores = copy.deepcopy((experiment.sampler, experiment.scores))  # the parts that have a state
    with contextlib.suppress(Unloadable):
        return train(experiment, folder)
    return train(
        replace(experiment, sampler=sampler, scores=scores), folder
    )  # with nothing of the half that was loaded


def train(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    """Train to the end of the budget, and write the result into the run's folder."""
    began = time.perf_counter()
    settings = experiment.settings
    device = check_parts(experiment)

    for path in made_files(experiment.resolved):
        check_made(path)

    # ---- data, on the device as uint8
    data, fingerprint = prepare(experiment)
    check_views(experiment, data)
    data = data.to(device)
    n, shape = len(data.labels), data.images.shape[1:]
    normalize = Normalize(data, device)

    # ---- the cost of a model, before it takes any memory
    def measured(kind: Model) -> tuple[int, int]:
        """FLOPs of an image, see model_flops; raises UserError where the model does not fit."""
        net = outline(kind, data)
        flops = model_flops(net, shape)
        check_memory(net, data, settings, device)
        return flops

    flops_forward, flops_update = measured(experiment.model)

    # ---- randomness: one stream a purpose, so that no method changes another's draws
    torch.manual_seed(settings.seed)  # initial weights and dropout
    random, aug_random, scores_random = (
        Random.seeded(settings.seed, of, device) for of in ("sampler", "aug", "scores")
    )
    view = Views(data, experiment.aug, aug_random)

    # ---- model
    net = experiment.model.build(shape[0], data.classes)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bf16 = machine.uses_bf16(settings.precision, device)

    def forward(net: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        """Logits in float32, whatever the model computes in."""
        with torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
            logits: Tensor = net(normalize(images))
        return logits.float()

    def update(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, observe: Observe) -> Tensor:
        """One step on a batch; the loss [] that it was made on."""
        logits = forward(net, batch.images)
        losses = experiment.loss(logits, batch)
        observe(batch, losses.detach(), logits.detach())
        loss = batch.mean(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean cross-entropy."""
        net.eval()
        # small parts stay in a CPU's cache: 250 are 1.8 times faster than 1000 with cnn at 28x28
        parts = images.split(250 if device.type == "cpu" else 2000)
        logits = torch.cat([forward(net, part) for part in parts])
        net.train()
        return (logits.argmax(1) == labels).sum().item() / len(labels), F.cross_entropy(logits, labels).item()

    def evaluated() -> dict[str, float]:
        """The values of an evaluation, which changes nothing."""
        line: dict[str, float] = {}
        line["test_accuracy"], line["test_loss"] = evaluate(data.test_images, data.test_labels)
        if data.val_images is not None and data.val_labels is not None:
            line["val_accuracy"], line["val_loss"] = evaluate(data.val_images, data.val_labels)
        return line

    optimizer = experiment.optimizer.build(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    model: Any = torch.compile(net) if settings.compile else net
    if settings.compile:
        some = data.images[: settings.batch_size]
        machine.compile_now(model, lambda: forward(model, some), device)

    # ---- budget
    full = full_updates(settings, n)
    updates = round(settings.budget * full)
    full_seconds = settings.full_seconds or 0.0
    if settings.budget_unit == "seconds" and not full_seconds:
        twin, twin_random = copy.deepcopy(net), Random.seeded(settings.seed, "calibration", device)
        twin_view = Views(data, experiment.aug, twin_random)
        twin_optimizer = experiment.optimizer.build(twin.parameters(), settings.lr, settings.weight_decay)

        def uniform_update() -> None:
            index = torch.randint(n, (settings.batch_size,), generator=twin_random.device, device=device)
            update(twin, twin_optimizer, twin_view(index), lambda batch, losses, logits: None)

        full_seconds = full * machine.seconds_of(uniform_update, device)
        log.info(
            "a full training takes %.1f s here, as measured; full_seconds sets it for runs to compare", full_seconds
        )
    cost_of_one = {
        "updates": 1, "examples": settings.batch_size, "flops": settings.batch_size * flops_update,
        "seconds": full_seconds / full,
    }[settings.budget_unit]  # fmt: skip
    budget = Budget(settings.budget_unit, updates * cost_of_one, cost_of_one, flops_forward, flops_update, device)

    # ---- sampler, and a scorer where there is one
    looks = Looks(net, model, forward, experiment.loss, budget, settings.batch_size)
    lr = settings.lr  # of the last update, or the first

    def second(kind: Model) -> SecondNetwork:
        flops = measured(kind)
        other = kind.build(shape[0], data.classes)
        other = other.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        other_optimizer = experiment.optimizer.build(other.parameters(), settings.lr, settings.weight_decay)
        return SecondNetwork(
            other, other_optimizer, lambda: lr, forward, experiment.loss, budget, flops, settings.batch_size
        )

    def read_scores(file: str) -> dict[str, Tensor]:
        run = {"dataset_fingerprint": fingerprint, "labels_fingerprint": digest(data.labels)}
        columns, flops = scorefile.read(file, "sampler.file", run, n)
        budget.flops_before += flops
        return {name: column.to(device) for name, column in columns.items()}

    context = Context(
        n=n, classes=data.classes, labels=data.labels, batch_size=settings.batch_size, fraction=settings.budget,
        epoch=n // settings.batch_size, device=device, random=random, view=view,
        validation=held_out(data), progress=lambda: budget.progress, read_scores=read_scores, look=looks.look,
        embed=looks.embed, gradient_norms=looks.gradient_norms, logit_gradients=looks.logit_gradients, second=second,
    )  # fmt: skip
    sampler, scorer = experiment.sampler, experiment.scores
    interruption = Interruption()
    diagnostics = Diagnostics(data, budget, view, sampler)
    sampler.start(context)
    if scorer is not None:
        scorer.start(replace(context, random=scores_random))

    def observe(batch: Batch, losses: Tensor, logits: Tensor) -> None:
        sampler.observe(batch, losses, logits)
        if scorer is not None:
            scorer.observe(batch, losses, logits)
        diagnostics.observe(batch)
        interruption.end_long()  # the update of the weights comes next

    # ---- from here on files are written
    folder.open()
    if settings.force:
        folder.start_over()
    elif result := folder.finished():  # by another process, meanwhile
        return result

    # ---- on from where it was interrupted
    record = Record()
    # what a run cannot change on the way
    here = {"run": experiment.run_id, "dataset fingerprint": fingerprint, "device type": device.type}
    before = 0.0  # seconds in all, of earlier processes
    source, dirty = commit()
    commits: list[str] = []  # of earlier processes whose code was another, which a review wants to know
    parts: dict[str, Stateful] = {
        "model": net, "optimizer": optimizer, "sampler": sampler, "budget": budget, "record": record,
        "diagnostics": diagnostics, "random": random, "aug_random": aug_random, "scores_random": scores_random,
        "global_random": machine.GlobalRandom(device), **({} if scorer is None else {"scores": scorer}),
    }  # fmt: skip

    def save(earlier: Mapping[str, Any]) -> None:
        """A checkpoint; earlier: {}, or the state `before_draw`, in the place of what an abandoned draw has left."""
        budget.stop()
        states = {name: earlier[name] if name in earlier else part.state_dict() for name, part in parts.items()}
        states["model"].update({name: buffer for name, buffer in earlier.get("buffers", {}).items()
                                if name in states["model"]})  # fmt: skip
        if not torch.stack([p.isfinite().all() for p in net.parameters()]).all():  # one wait for the device
            raise Diverged(
                f"the weights became infinite or not a number by update {budget.updates} (learning rate {lr:.3g})"
            )
        spent = {"seconds_total": before + time.perf_counter() - began, "commits": [*commits, source]}
        folder.write_checkpoint({**states, **here, **spent})

    def before_draw() -> dict[str, Any]:
        """A copy of all that a draw and the forward pass after it change. It takes about a millisecond."""
        budget.stop()
        states = {name: part.state_dict() for name, part in parts.items() if name not in LEFT_ALONE}
        copied = copy.deepcopy({**states, "buffers": dict(net.named_buffers())})
        budget.start()
        return copied

    if state := folder.read_checkpoint(device, [*parts, "seconds_total", "commits"], here):
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except Exception as error:  # of a part that has changed since, and whose state has another form
            folder.give_up_checkpoint(error)
            raise Unloadable from error
        lr = optimizer.param_groups[0]["lr"]
        before = state["seconds_total"]
        commits = list(dict.fromkeys(c for c in state["commits"] if c not in (None, source)))
        log.info("%s goes on from update %d", folder.path, budget.updates)
        if commits:
            log.warning("it began with the code of commit %s and goes on with that of %s", commits[-1], source)
    folder.write_config(experiment.resolved)
    folder.write_metrics(record.metrics)

    # ---- the loop
    saved = time.perf_counter()
    earlier: dict[str, Any] = {}  # the state before a draw that can be abandoned
    methods: list[object] = [sampler, scorer]
    longest: float | None = None  # seconds of a draw so far, in this process
    with heard(STOPPING, interruption), shown(budget) as progress:
        budget.start()
        try:
            while True:
                spent = budget.spent
                share = min(1.0, spent / budget.allowed)
                due = int(settings.evaluations * share) if budget.updates else 0
                if due > record.evaluations:
                    budget.stop()
                    interruption.begin_long()
                    values = evaluated()
                    interruption.end_long()
                    record.evaluations = due
                    line = {"progress": share, "lr": lr, "train_loss": record.mean_loss(), **values}
                    line |= budget.realised() | diagnostics.line()
                    record.metrics.append(line)
                    folder.append_metrics(line)
                    progress.evaluated(line)
                    budget.start()
                elif budget.updates % READ_EVERY == 0:
                    record.read()
                if interruption.signum is not None:
                    raise Abandoned  # with nothing begun
                if spent >= budget.allowed and budget.updates:  # of few seconds, all may be gone before the first
                    break
                if longest is not None and time.perf_counter() - saved > settings.checkpoint_every:
                    save({})
                    saved = time.perf_counter()
                    budget.start()

                lr = experiment.schedule(settings.lr, budget.progress)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                # of the first draw nothing is known
                if longest is None or longest > LONG or any(isinstance(m, TakesLong) and m.takes_long for m in methods):
                    earlier = before_draw()
                    interruption.begin_long()
                drawing = time.thread_time()  # of another process, no draw takes long
                with diagnostics.drawing():
                    batch = sampler.draw()
                longest = max(longest or 0.0, time.thread_time() - drawing)
                loss = update(model, optimizer, batch, observe)
                earlier = {}
                record.add(loss, lr)
                budget.charge_update(len(batch))
                progress.step()
        except Abandoned:
            save(earlier)
            again = ", without force=true," if settings.force else ""
            how = f"saved at update {budget.updates}; run the same command again{again} to go on"
            raise Interrupted(how, interruption.signum or 0) from None
        save({})

    # ---- the result
    last = record.metrics[-1]
    if scorer is not None:
        columns = scorer.scores()
        held = context.validation if isinstance(scorer, OfPart) and scorer.of == "validation" else None
        labels = data.labels if held is None else held.label[:, 0]
        about = {
            "dataset_fingerprint": fingerprint, "labels_fingerprint": digest(labels),
            "method": experiment.names["scores"], "run_id": experiment.run_id,
            "flops": budget.flops + budget.flops_before, "commit": source,
        }  # fmt: skip
        scorefile.write(folder.scores_path, columns, about)
    result = {
        "run_id": experiment.run_id, "status": FINISHED, "names": experiment.names, "config": experiment.resolved,
        **{key: value for key, value in last.items() if key not in ("progress", "lr")},
        "flops_before": budget.flops_before, "seconds_total": before + time.perf_counter() - began,
        "n_parameters": sum(p.numel() for p in net.parameters()), "n_training": n,
        "n_corrupted": 0 if data.corrupted is None else int(data.corrupted.sum()),
        "dataset_fingerprint": fingerprint, "commit": source, "dirty": dirty, "commits_before": commits,
        **machine.describe(device),
    }  # fmt: skip
    folder.finish(result)
    return result
