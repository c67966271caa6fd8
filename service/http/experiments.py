"""Experiments on recalls: the arm of a user sets fields of the request.

An arm sets any field that a scenario can set. A field that the request gives itself stays as it is,
so a caller can look at one arm without being part of the experiment.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from service.experiments.assignment import Assigner, Assignment
from service.experiments.config import Experiments, read_experiments
from service.http.scenarios import Scenario, Scenarios
from service.http.schemas import RecallRequest
from service.http.watched_file import WatchedFile

NONE = Experiments({})
Fields = dict[tuple[str, str], dict[str, Any]]
"""The fields of a recall that each arm sets, by experiment and arm."""


class Running(BaseModel):
    """An experiment as the service runs it."""

    experiment: str
    layer: str
    slice: tuple[float, float] = Field(description="part of the layer's users that takes part")
    arms: dict[str, dict[str, Any]] = Field(description="fields of a recall that each arm sets")
    weights: dict[str, float]


class ExperimentsResponse(BaseModel):
    """The experiments that run."""

    experiments: list[Running]
    problem: str | None = Field(
        None, description="why the file, which has changed, is not used: these are the ones before"
    )


class LiveExperiments:
    """The experiments of a file, which is read again whenever it changes."""

    def __init__(self, file: Path | None, scenarios: Scenarios) -> None:
        """Reads the file. Raises ValueError that names the file, the arm and the field."""
        self._scenarios = scenarios
        without: tuple[Experiments, Assigner, Fields] = NONE, Assigner(NONE), {}
        self.file = WatchedFile(file, _read, without)

    def applied_to(self, body: RecallRequest) -> tuple[RecallRequest, list[Assignment]]:
        """Returns the request with the fields of the user's arms and its scenario, and the arms."""
        experiments, assigner, fields = self.file.content
        if not experiments.root or body.user_id is None:
            return self._scenarios.applied_to(body), []
        found = assigner.assign(body.user_id)
        update: dict[str, Any] = {}
        for one in found:
            given = fields[one.experiment, one.arm]
            update |= {name: given[name] for name in given.keys() - body.model_fields_set}
        changed = body.model_copy(update=update) if update else body
        return self._scenarios.applied_to(changed), found

    async def listed(self) -> ExperimentsResponse:
        """Lists the experiments that run, with what their arms set."""
        experiments, _, _ = self.file.content
        found = [
            Running(
                experiment=name,
                layer=one.layer,
                slice=one.slice,
                arms={arm: settings.recall for arm, settings in one.arms.items()},
                weights={arm: settings.weight for arm, settings in one.arms.items()},
            )
            for name, one in experiments.root.items()
        ]
        return ExperimentsResponse(experiments=found, problem=self.file.problem)


def _read(file: Path) -> tuple[Experiments, Assigner, Fields]:
    """Returns the experiments of a file. Raises ValueError if it cannot be used."""
    try:
        experiments = read_experiments(file)
    except OSError as error:
        raise ValueError(f"--experiments: {file}: {error.strerror}") from error
    fields = {}
    for name, experiment in experiments.root.items():
        for arm, settings in experiment.arms.items():
            try:
                checked = Scenario.model_validate(settings.recall)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                steps = (name, "arms", arm, "recall", *problem["loc"])
                where = ".".join(map(str, steps))
                raise ValueError(f"--experiments: {file}: {where}: {problem['msg']}") from None
            fields[name, arm] = {key: getattr(checked, key) for key in checked.model_fields_set}
    return experiments, Assigner(experiments), fields
