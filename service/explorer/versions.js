/** The tab of versions and experiments, with their counts; and the choices that panes have of both. */

import { ask } from "./api.js";

/** A time of ISO 8601 to the minute, in UTC. */
const shortTime = (text) => (Date.parse(text) ? new Date(text).toISOString().slice(0, 16).replace("T", " ") : text);
const number = (value) => value.toLocaleString("en");

/** The state and the methods of the tab. */
export function versionsTab() {
  return {
    versions: [],
    versionProblem: "",
    versionsError: "",
    experiments: [],
    experimentsNote: "",
    answering: [], // versions that a pane can name
    arms: [], // EXPERIMENT/ARM

    /** Learns which versions answer, and which arms there are. */
    async learnChoices() {
      const [versions, experiments] = await Promise.all(["versions", "experiments"].map((path) => this.get(path)));
      this.answering = [...new Set([versions.serving, ...versions.arms.filter((arm) => arm.loaded).map((arm) => arm.version)])];
      this.arms = experiments.experiments.flatMap((one) => Object.keys(one.arms).map((arm) => `${one.experiment}/${arm}`));
      return [versions, experiments];
    },

    async showVersions() {
      try {
        const [versions, experiments] = await this.learnChoices();
        this.versionsError = "";
        this.versionProblem = versions.problem ?? experiments.problem ?? "";
        this.versions = [...versions.versions].reverse().map((one) => versionRow(one, versions));
        const { json } = await ask("POST", "explorer/exposures", undefined, this.headers());
        this.experiments = armRows(experiments, json.arms);
        this.experimentsNote = json.complete ? "answers of the last 24 hours" : "answers of the last 24 hours, without the newest";
      } catch (error) {
        this.noteRefusal(error);
        this.versionsError = error.message;
      }
    },

    async get(path) { return (await ask("GET", path, undefined, this.headers())).json; },
  };
}

function versionRow(one, { serving, arms }) {
  const arm = arms.find(({ version }) => version === one.version);
  const armState = arm && (arm.loaded ? "answers an arm" : arm.problem ?? "is being loaded");
  return {
    ...one,
    state: one.version === serving ? "served" : one.problem ?? armState ?? "",
    items: number(one.items),
    size: `${(one.bytes / 1e6).toFixed(1)} MB`,
    created: shortTime(one.created),
    published: one.published ? shortTime(one.published) : "never",
  };
}

/** A row for each arm: of the experiments that run, then of those that only the log knows. */
function armRows({ experiments }, counts) {
  const countOf = (experiment, arm) => counts.find((one) => one.experiment === experiment && one.arm === arm);
  const running = experiments.flatMap((one) => {
    const arms = Object.keys(one.arms).map((arm) => armRow(one, arm, countOf(one.experiment, arm)));
    const drafted = one.interleave && countOf(one.experiment, "interleaved");
    return drafted ? [...arms, loggedRow(drafted, "both arms in one list")] : arms;
  });
  const known = new Set(running.map((row) => row.key));
  const ended = counts.filter((one) => !known.has(`${one.experiment}/${one.arm}`)).map((one) => loggedRow(one, "ended"));
  return [...running, ...ended];
}

function armRow(one, arm, count) {
  const total = Object.values(one.weights).reduce((sum, weight) => sum + weight, 0);
  const share = one.interleave ? 1 : one.weights[arm] / total;
  const [begin, end] = one.slice;
  const fields = Object.entries(one.arms[arm]).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  const version = one.versions?.[arm];
  return {
    ...loggedRow(count ?? { experiment: one.experiment, arm, answers: 0, users: 0, degraded: 0, versions: {} }, ""),
    share: `${(100 * share * (end - begin)).toFixed(1)} %`,
    sets: [...(version ? [`version ${version}`] : []), ...fields].join(", ") || "nothing: the control",
  };
}

function loggedRow({ experiment, arm, answers, users, degraded, versions }, sets) {
  const names = Object.keys(versions).filter(Boolean);
  return {
    key: `${experiment}/${arm}`, experiment, arm, sets, share: "",
    answers: number(answers), users: number(users), degraded: number(degraded),
    answeredBy: names.join(", "),
  };
}
