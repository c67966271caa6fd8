/** The explorer: it asks the service for recalls, and shows the steps behind the answers. */

import Alpine from "./vendor/alpine-csp.esm.min.js";
import { factsOf, viewOf } from "./answer.js";
import { ask, curlOf, describe, keyHeader, recallPath, stagesOf } from "./api.js";
import { mapTab } from "./map.js";
import { qualityTab } from "./quality.js";
import { versionsTab } from "./versions.js";

const EVENT_TYPES = ["click", "view", "purchase", "like", "dislike", "skip"];
const BOXES = ["user_id", "k", "interests", "history", "with_metadata", "filter", "scenario", "seeds"];
const VIEWS = ["recall", "index", "map", "versions"];
const SETTINGS = ["k", "interests", "filter", "scenario", "seeds", "arm", "version", "other"];
const KEY = "recgpt-explorer-key";
const STARTING = 503;
const RETRY_MS = 2000;

/** A pane: the settings of one recall, and its answer. */
function newPane(name, settings = {}) {
  return {
    name, title: `Setting ${name}`, style: `setting-${name.toLowerCase()}`,
    k: 20, interests: "", filter: "", scenario: "", seeds: "", arm: "", version: "", other: "", ...settings,
    answer: null, error: "", busy: false, isStarting: false, copied: false, curl: "", overlap: "",
    history: [], interestLists: [], merged: [], stages: [], listNote: "", interestsNote: "", timeNote: "",
  };
}

/** The value of a box that holds JSON. Throws an Error that names the box. */
function jsonOf(text, box) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${box} is not JSON: ${error.message}`);
  }
}

/** The body of a pane's recall; `history` only if it was edited. */
function bodyOf(pane, user, edited) {
  const body = user ? { user_id: user } : {};
  if (pane.k !== "" && pane.k !== null) body.k = Number(pane.k);
  if (pane.interests !== "" && pane.interests !== null) body.interests = Number(pane.interests);
  if (pane.filter.trim()) body.filter = jsonOf(pane.filter, "Filter");
  if (pane.scenario.trim()) body.scenario = pane.scenario.trim();
  if (pane.seeds.trim()) body.seeds = pane.seeds.split(",").map((seed) => seed.trim()).filter(Boolean);
  if (edited) body.history = edited;
  return { ...body, ...(pane.other.trim() ? jsonOf(pane.other, "Other fields") : {}), with_metadata: true };
}

Alpine.data("explorer", () => ({
  view: "recall",
  user: "",
  panes: [newPane("A")],
  edited: null, // ids of a history that was edited by hand; null: the stored one
  history: [],
  added: "",
  status: "",
  version: "",
  fields: [],
  key: sessionStorage.getItem(KEY) ?? "",
  needsKey: false,
  chosen: { title: "", facts: [] },
  eventType: EVENT_TYPES[0],
  eventTypes: EVENT_TYPES,
  eventError: "",
  retry: 0, // the timer of the next try while the service starts
  asked: 0, // recalls so far; an answer to an earlier one is not shown
  ...qualityTab(),
  ...mapTab(),
  ...versionsTab(),

  async init() {
    this.readAddress(await this.learn());
    await this.begin();
  },

  /** Shows the view that the address names. The recall is there in any case. */
  async begin() {
    if (this.fields.length && (this.user || this.seeded)) await this.recall();
    if (this.fields.length && this.view !== "recall") await this.show(this.view);
  },

  async show(view) {
    this.view = view;
    this.writeAddress();
    if (view === "index") await this.showIndex();
    if (view === "map") await this.showMap();
    if (view === "versions") await this.showVersions();
  },

  /** Learns which fields a recall may have; returns an example of one. */
  async learn() {
    try {
      const { json } = await ask("GET", "openapi.json", undefined, this.headers());
      const { fields, example } = describe(json);
      this.fields = fields;
      return example;
    } catch (error) {
      this.noteRefusal(error);
      this.status = error.message;
      return {};
    }
  },
  noteRefusal(error) { this.needsKey ||= error.status === 401 || error.status === 403; },

  get seeded() { return this.panes.every((pane) => pane.seeds.trim()); },
  get mapTitle() { return this.user ? `the catalogue, with user ${this.user}` : "the catalogue"; },
  get comparing() { return this.panes.length > 1; },
  get historyNote() { return this.edited ? "edited here, not stored" : this.history.length ? "newest first" : ""; },
  get otherFields() {
    const others = this.fields.filter((field) => !BOXES.includes(field));
    return others.length ? others.join(", ") : "none";
  },
  has(field) { return this.fields.includes(field); },
  headers() { return keyHeader(this.key); },
  /** Keeps the key until the window is closed, and begins again with it. */
  async keepKey() {
    sessionStorage.setItem(KEY, this.key);
    await this.learn();
    await this.begin();
  },

  /** Takes user and settings from the address, so that a view can be bookmarked and sent. */
  readAddress(example) {
    const address = new URLSearchParams(location.hash.slice(1));
    this.user = address.get("user") ?? (address.has("seeds") ? "" : example.user_id ?? "");
    this.view = VIEWS.includes(address.get("view")) ? address.get("view") : "recall";
    for (const name of SETTINGS) {
      if (address.has(name)) this.panes[0][name] = address.get(name);
    }
    if (address.has("compare")) this.panes.push(newPane("B", { ...settingsOf(this.panes[0]), ...jsonOf(address.get("compare"), "compare") }));
  },

  writeAddress() {
    const [first, second] = this.panes;
    const address = new URLSearchParams({ user: this.user });
    for (const [name, value] of Object.entries(settingsOf(first))) if (name === "k" || (value !== "" && value !== null)) address.set(name, value ?? "");
    if (this.view !== "recall") address.set("view", this.view);
    if (second) address.set("compare", JSON.stringify(settingsOf(second)));
    history.replaceState(null, "", `#${address}`);
  },

  /**
   * Asks for the answers of all panes. What is new against the answers before is marked if asked.
   * Returns whether the answers are shown: not if another recall was asked meanwhile.
   */
  async recall(markNew = false) {
    this.writeAddress();
    clearTimeout(this.retry);
    const turn = ++this.asked;
    await Promise.all(this.panes.map((pane) => this.fill(pane, markNew, turn)));
    if (turn !== this.asked) return false;
    if (this.panes.some((pane) => pane.isStarting)) {
      clearTimeout(this.retry);
      this.retry = setTimeout(() => this.recall(), RETRY_MS); // one for all panes
    }
    this.markOverlap();
    const [first] = this.panes;
    if (first.answer) {
      this.version = first.answer.version;
      if (!this.answering.length) this.learnChoices().catch((error) => this.noteRefusal(error));
      this.showHistory(first);
      if (!markNew) this.status = `${first.merged.length} candidates for ${this.user ? `user ${this.user}` : "the seeds"}`;
    }
    return true;
  },

  async fill(pane, markNew, turn) {
    pane.busy = true;
    pane.isStarting = false;
    try {
      const body = bodyOf(pane, this.user, this.edited);
      const { json, headers } = await ask("POST", recallPath(pane), body, this.headers());
      if (turn !== this.asked) return;
      const before = markNew && pane.answer ? { interestLists: pane.interestLists, merged: pane.merged } : undefined;
      Object.assign(pane, viewOf(json, stagesOf(headers), before), { error: "", copied: false, curl: curlOf(pane, body, Boolean(this.key)) });
    } catch (error) {
      if (turn !== this.asked) return;
      this.noteRefusal(error);
      pane.answer = null;
      pane.isStarting = error.status === STARTING;
      pane.error = error.message;
    }
    pane.busy = false;
  },

  showHistory(pane) {
    this.history = pane.history.map((item, at) => ({
      ...item, at, key: `${at} ${item.item_id}`, removeLabel: `Remove ${item.title} from the history`,
    })).reverse();
  },

  markOverlap() {
    const [first, second] = this.panes;
    if (!second?.answer || !first.answer) return;
    const ids = this.panes.map((pane) => new Set(pane.merged.map((hit) => hit.item_id)));
    this.panes.forEach((pane, at) => {
      const shared = pane.merged.filter((hit) => (hit.inBoth = ids[1 - at].has(hit.item_id))).length;
      pane.overlap = `${shared} of ${pane.merged.length} items are in both lists`;
      if (first.answer.version !== second.answer.version) pane.overlap += ` · version ${pane.answer.version}`;
    });
  },

  async compare() {
    if (this.comparing) {
      this.panes.pop();
      this.panes[0].merged.forEach((hit) => (hit.inBoth = false));
    } else {
      this.panes.push(newPane("B", settingsOf(this.panes[0])));
    }
    if (this.user || this.seeded) await this.recall();
  },

  /** The ids of the history as it is shown, oldest first. */
  ids() { return this.history.map((item) => item.item_id).reverse(); },
  async edit(ids) {
    this.edited = ids;
    if (await this.recall(true)) this.status = `The history was edited: ${ids.length} items`;
  },
  async add() {
    if (!this.added.trim()) return;
    const ids = [...this.ids(), this.added.trim()];
    this.added = "";
    await this.edit(ids);
  },
  async remove(item) { await this.edit(this.ids().filter((_, at) => at !== item.at)); },
  async restore() {
    this.edited = null;
    if (await this.recall(true)) this.status = "Back to the stored history";
  },

  open(item, pane) {
    const related = item.related ?? pane?.merged.find((hit) => hit.item_id === item.item_id)?.related;
    this.chosen = { ...item, facts: factsOf(item, related), requestId: pane?.answer.request_id };
    this.eventError = "";
    this.$refs.dialog.showModal();
  },
  close() { this.$refs.dialog.close(); },

  /** Sends an event of the chosen item, and recalls again. */
  async send() {
    const { item_id, title, requestId } = this.chosen;
    const event = { user_id: this.user, item_id, type: this.eventType, timestamp: Date.now() / 1000 };
    try {
      await ask("POST", "events", { events: [requestId ? { ...event, request_id: requestId } : event] }, this.headers());
    } catch (error) {
      this.eventError = error.message;
      return;
    }
    this.close();
    this.edited = null;
    if (!(await this.recall(true))) return;
    const moved = this.panes[0].merged.filter((hit) => hit.isNew).length;
    this.status = `${this.eventType} of ${title}: ${moved} of ${this.panes[0].merged.length} candidates are new`;
  },
  async addChosen() {
    this.close();
    await this.edit([...this.ids(), this.chosen.item_id]);
  },
  async seedChosen() {
    this.close();
    for (const pane of this.panes) pane.seeds = [pane.seeds, this.chosen.item_id].filter(Boolean).join(", ");
    await this.recall(true);
  },

  async copy(pane) {
    try {
      await navigator.clipboard.writeText(pane.curl);
      pane.copied = true;
    } catch {
      this.status = "The browser refuses to copy: select the command by hand.";
    }
  },
}));

/** The settings of a pane, as the address and a second pane take them. */
function settingsOf(pane) {
  return Object.fromEntries(SETTINGS.map((name) => [name, pane[name]]));
}

Alpine.start();
