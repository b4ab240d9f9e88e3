"""MLflow: the evaluations of a run as a run of an experiment, in a local file or on a server."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from filelock import FileLock

from budgetrun.contracts import Tracked
from budgetrun.files import write_text
from budgetrun.logger._values import noted, numbers, text

MOST = 100  # parameters that MLflow takes at a time
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass
class MLflow:
    """Metrics over updates, the configuration as parameters, and the rest of the result as metrics and tags.

    The file mlflow.id in the run's folder has MLflow's id of the run, which goes on there. If MLflow has evaluations
    that the checkpoint does not hold, or force=true starts over, MLflow's run is deleted, which `mlflow gc` makes
    final, and there is a new one: MLflow can not take back a part of a run.
    """

    experiment: str
    tracking_uri: str | None

    needs: ClassVar = dict.fromkeys(("mlflow", "sqlalchemy", "alembic"), "budgetrun[mlflow]")

    def open(self, run: Tracked, lines: Sequence[Mapping[str, Any]]) -> None:
        from mlflow import MlflowClient

        for package in ("mlflow", "alembic"):  # which tell how they make a database
            logging.getLogger(package).setLevel(logging.WARNING)
        with FileLock(run.folder.parent / ".mlflow.lock"):  # MLflow does not, when it makes a database
            self.client = MlflowClient(self.tracking_uri)
        note = run.folder / "mlflow.id"
        there = self.steps(known) if (known := noted(note)) else None
        if known and there is not None and there <= {line["updates"] for line in lines}:
            self.id = known
            self.client.update_run(self.id, status="RUNNING")
        else:
            if known and there is not None:
                self.client.delete_run(known)
            self.id, there = self.new(run), set()
            write_text(note, self.id)
        for line in lines:
            if line["updates"] not in there:
                self.log(line)

    def steps(self, known: str) -> set[int] | None:
        """The updates at which a run was evaluated, as far as MLflow knows; None if MLflow has no such run."""
        from mlflow.exceptions import MlflowException

        try:
            if self.client.get_run(known).info.lifecycle_stage != "active":
                return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return {metric.step for metric in self.client.get_metric_history(known, "updates")}

    def new(self, run: Tracked) -> str:
        """MLflow's id of a new run, which has the configuration."""
        from mlflow.entities import Param

        tags = {"run_id": run.run_id, "folder": str(run.folder), "group": run.group, **dict.fromkeys(run.tags, "true")}
        made = self.client.create_run(self.experiment_id(), tags=tags, run_name=run.run_id).info.run_id
        params = [Param(name, text(value)) for name, value in run.config.items()]
        for first in range(0, len(params), MOST):
            self.client.log_batch(made, params=params[first : first + MOST])
        return str(made)

    def experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if (found := self.client.get_experiment_by_name(self.experiment)) is None:
            try:
                return str(self.client.create_experiment(self.experiment))
            except MlflowException:  # another process may have made it just now
                if (found := self.client.get_experiment_by_name(self.experiment)) is None:
                    raise
        return str(found.experiment_id)

    def log(self, line: Mapping[str, Any]) -> None:
        self.updates = line["updates"]
        self.measure(line)

    def measure(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 10**6
        metrics = [Metric(name, value, now, self.updates) for name, value in numbers(values).items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        if result:
            last = numbers(self.client.get_run(self.id).data.metrics)
            self.measure({name: value for name, value in result.items() if name not in last})
            for name, value in result.items():
                if name not in numbers(result) and value is not None:
                    self.client.set_tag(self.id, name, text(value))
        self.client.set_terminated(self.id, STATUS[state])
