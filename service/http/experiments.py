"""Experiments on recalls: the arm of a user sets fields of the request.

An arm sets any field that a scenario can set, or a scenario, and can name the version that answers.
A field that the request gives itself stays as it is, so a caller can look at one arm without being
part of the experiment.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, create_model

from service.errors import FieldError, Invalid
from service.experiments.assignment import Assigner, Assignment
from service.experiments.config import Arm, Experiments, read_experiments
from service.experiments.team_draft import INTERLEAVED
from service.http.drafts import Draft, Side
from service.http.live_versions import ArmVersion
from service.http.problems import MAX_LISTED
from service.http.scenarios import Attributes, Scenario, Scenarios, check_fields
from service.http.schemas import RecallRequest, ScenarioName
from service.http.watched_file import WatchedFile

NONE = Experiments({})
ArmFields: type[BaseModel] = create_model(
    "ArmFields",
    __base__=Scenario,
    __doc__="Fields of a recall that an arm sets.",
    scenario=(ScenarioName | None, None),
)
Fields = dict[tuple[str, str], dict[str, Any]]
"""The fields of a recall that each arm sets, by experiment and arm."""


class Running(BaseModel):
    """An experiment as the service runs it."""

    experiment: str
    layer: str
    slice: tuple[float, float] = Field(description="part of the layer's users that takes part")
    interleave: bool = Field(description="whether every answer is a draft of both arms' lists")
    arms: dict[str, dict[str, Any]] = Field(description="fields of a recall that each arm sets")
    weights: dict[str, float]
    versions: dict[str, str] | None = Field(
        None, description="version that answers the users of each arm; null: the served one"
    )


class ExperimentsResponse(BaseModel):
    """The experiments that run."""

    experiments: list[Running]
    versions: list[ArmVersion] = Field(
        description="versions that arms name, and whether they answer recalls"
    )
    problem: str | None = Field(
        None, description="why the file, which has changed, is not used: these are the ones before"
    )


class LiveExperiments:
    """The experiments of a file, which is read again whenever it changes."""

    def __init__(
        self,
        file: Path | None,
        scenarios: Scenarios,
        answers: Callable[[str], bool] = lambda version: False,
        on_fallback: Callable[[], None] = lambda: None,
        attributes: Callable[[], Attributes | None] = lambda: None,
    ) -> None:
        """Reads the file. Raises ValueError that names the file, the arm and the field.

        Takes whether a version answers now, what to call for a recall that must go without the arm
        of its user because that arm's version does not, and the attributes of the served version,
        which filters are checked against.
        """
        self._scenarios = scenarios
        self._attributes = attributes
        self._answers = answers
        self.on_fallback = on_fallback
        without: tuple[Experiments, Assigner, Fields] = NONE, Assigner(NONE), {}
        self.file = WatchedFile(file, self._read, without, self._context)

    def applied_to(self, body: RecallRequest) -> tuple[RecallRequest, list[Assignment]]:
        """Returns the request with the fields of the user's arms and its scenario, and the arms.

        An arm whose version cannot answer now, or whose scenario is gone, is left out, with its
        fields. So are interleaved experiments: see `draft_for`.
        """
        experiments, assigner, fields = self.file.content
        if not experiments.root or body.user_id is None:
            return self._scenarios.applied_to(body), []
        assigned = [one for one in assigner.assign(body.user_id) if one.arm != INTERLEAVED]
        found = [one for one in assigned if self._is_served(one, fields)]
        return self._with_fields(body, found), found

    def without_arms(self, body: RecallRequest) -> RecallRequest:
        """Returns the request with the fields of its scenario, as if there were no experiment."""
        return self._scenarios.applied_to(body)

    def as_arm(self, body: RecallRequest, name: str) -> tuple[RecallRequest, list[Assignment]]:
        """Returns the request as a user of the arm `EXPERIMENT/ARM` makes it, and that arm.

        Raises Invalid if there is none, or if it cannot answer now.
        """
        experiments, _, fields = self.file.content
        arms = {
            f"{experiment}/{arm}": Assignment(experiment, arm, settings)
            for experiment, one in experiments.root.items()
            for arm, settings in one.arms.items()
        }
        found = arms.get(name)
        if found is None:
            listed = ", ".join(list(arms)[:MAX_LISTED]) or "none"
            words = f"there is no such arm; the arms are: {listed}"
            raise Invalid(f"arm: {words}", [FieldError("arm", words)])
        if problem := self._problem(found, fields):
            raise Invalid(f"arm: {problem}", [FieldError("arm", problem)])
        return self._with_fields(body, [found]), [found]

    def draft_for(self, body: RecallRequest) -> Draft | None:
        """Returns how to answer a user of an interleaved experiment; None for all others.

        Without the version or the scenario of one of its arms there is no draft.
        """
        experiments, assigner, fields = self.file.content
        if not assigner.interleaves or body.user_id is None:
            return None
        assigned = assigner.assign(body.user_id)
        name = next((one.experiment for one in assigned if one.arm == INTERLEAVED), None)
        if name is None:
            return None
        one, two = (Assignment(name, *arm) for arm in experiments.root[name].arms.items())
        if not (self._is_served(one, fields) and self._is_served(two, fields)):
            return None
        arms = [arm for arm in assigned if arm.experiment == name or self._is_served(arm, fields)]
        others = [arm for arm in arms if arm.experiment != name]
        sides = [Side(arm, self._with_fields(body, [*others, arm])) for arm in (one, two)]
        return Draft((sides[0], sides[1]), arms)

    def _with_fields(self, body: RecallRequest, found: list[Assignment]) -> RecallRequest:
        """Returns the request with the fields of these arms and its scenario."""
        fields = self.file.content[2]
        update: dict[str, Any] = {}
        for one in found:
            given = fields[one.experiment, one.arm]
            update |= {name: given[name] for name in given.keys() - body.model_fields_set}
        changed = body.model_copy(update=update) if update else body
        return self._scenarios.applied_to(changed)

    @property
    def versions(self) -> frozenset[str]:
        """The versions that arms name."""
        return self.file.content[0].versions

    def listed(self, versions: list[ArmVersion]) -> ExperimentsResponse:
        """Lists the experiments that run, with what their arms set, and these versions."""
        experiments, _, _ = self.file.content
        found = [
            Running(
                experiment=name,
                layer=one.layer,
                slice=one.slice,
                interleave=one.interleave,
                arms={arm: settings.recall for arm, settings in one.arms.items()},
                weights={arm: settings.weight for arm, settings in one.arms.items()},
                versions={arm: str(settings.version) for arm, settings in one.arms.items()}
                if one.versions
                else None,
            )
            for name, one in experiments.root.items()
        ]
        return ExperimentsResponse(experiments=found, versions=versions, problem=self.file.problem)

    def _is_served(self, arm: Assignment, fields: Fields) -> bool:
        if not self._problem(arm, fields):
            return True
        self.on_fallback()
        return False

    def _problem(self, arm: Assignment, fields: Fields) -> str:
        """Returns why recalls of an arm cannot be answered now; empty if they can."""
        version = arm.settings.version
        if version is not None and not self._answers(version):
            return f"its version {version} does not answer now: GET /versions says why"
        scenario = fields[arm.experiment, arm.arm].get("scenario")
        if scenario is not None and scenario not in self._scenarios.file.content:
            return f"its scenario {scenario} is gone"
        return ""

    def _context(self) -> object:
        """Returns what the file's validity depends on."""
        return sorted(self._scenarios.file.content), self._attributes()

    def _read(self, file: Path) -> tuple[Experiments, Assigner, Fields]:
        """Returns the experiments of a file. Raises ValueError if it cannot be used."""
        try:
            experiments = read_experiments(file)
        except OSError as error:
            raise ValueError(f"--experiments: {file}: {error.strerror}") from error
        fields = {}
        for name, experiment in experiments.root.items():
            for arm, settings in experiment.arms.items():
                where = f"{name}.arms.{arm}.recall"
                try:
                    fields[name, arm] = self._checked(settings, where)
                except ValueError as error:
                    raise ValueError(f"--experiments: {file}: {error}") from None
        return experiments, Assigner(experiments), fields

    def _checked(self, arm: Arm, where: str) -> dict[str, Any]:
        """Returns the fields of an arm. Raises ValueError that names the one at fault."""
        try:
            checked = ArmFields.model_validate(arm.recall)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            steps = ".".join(map(str, (where, *problem["loc"])))
            raise ValueError(f"{steps}: {problem['msg']}") from None
        found = {key: getattr(checked, key) for key in checked.model_fields_set}
        scenario, attributes = found.get("scenario"), self._attributes()
        if scenario is not None and scenario not in self._scenarios.file.content:
            raise ValueError(f"{where}.scenario: --scenarios has none of the name {scenario}")
        if attributes is not None and arm.version is None:
            try:
                check_fields(found, attributes, f"{where}.")
            except Invalid as error:
                raise ValueError(error.detail) from None
        return found
