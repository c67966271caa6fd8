/** An answer of `/explorer/recall` as the page shows it. */

const TITLES = ["title", "name"];
const BACK_FILL = -1;

/** An item with its title, and its other attributes in one line. */
export function itemOf({ item_id, metadata = {} }) {
  const title = TITLES.map((name) => metadata[name]).find(Boolean) ?? item_id;
  const about = Object.entries(metadata).filter(([name]) => !TITLES.includes(name)).map(([, value]) => textOf(value));
  return { item_id, metadata, title: String(title), about: about.join(" · ") };
}

/** A value of an attribute as text. */
export function textOf(value) {
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Everything that a pane shows, but for what the two panes have in common. */
export function viewOf(answer, stages, before) {
  const { history, interests, related } = answer.explanation;
  const titles = new Map(history.map((item) => [item.item_id, itemOf(item).title]));
  const givenBy = new Map(answer.items.map((item) => [item.item_id, item.interest]));
  return {
    answer,
    history: history.map(itemOf),
    interestLists: interests.map((interest, at) => columnOf(interest, at, interests[at - 1], givenBy, before?.interestLists[at])),
    merged: answer.items.map((item, at) => mergedItem(item, at, related[at], titles, before)),
    ...notesOf(answer),
    ...timesOf(stages),
  };
}

/** One interest, which follows another: its hits, and which of them the merged list has from it. */
function columnOf({ hits, offer }, at, last, givenBy, before) {
  const best = Math.max(...hits.map((hit) => hit.score), 1e-9);
  const known = before && new Set(before.hits.map((hit) => hit.item_id));
  const shown = hits.map((hit) => {
    const giver = givenBy.get(hit.item_id);
    return {
      ...itemOf(hit),
      interest: at,
      score: hit.score,
      shownScore: hit.score.toFixed(3),
      bar: { width: `${Math.max(2, (100 * hit.score) / best).toFixed(1)}%` },
      isNew: Boolean(known) && !known.has(hit.item_id),
      style: giver === at ? "given" : "left-out",
      note: noteOf(giver, at, hit.item_id === offer),
    };
  });
  return {
    number: at + 1,
    style: styleOf(at),
    title: last ? `after “${offerTitle(last)}”` : "from the history",
    hits: shown,
    offerTitle: offerTitle({ hits, offer }),
  };
}

/** The title of the item that was offered after an interest. */
function offerTitle({ hits, offer }) {
  const offered = hits.find((hit) => hit.item_id === offer);
  return offered ? itemOf(offered).title : offer ?? "";
}

function noteOf(giver, at, isOffer) {
  const notes = isOffer ? ["offered next"] : [];
  if (giver !== undefined && giver !== at && giver !== BACK_FILL) notes.push(`listed by ${giver + 1}`);
  return notes.join(", ");
}

function mergedItem(item, at, related = [], titles, before) {
  const known = before && new Set(before.merged.map((hit) => hit.item_id));
  const filled = item.interest === BACK_FILL;
  return {
    ...itemOf(item),
    rank: at + 1,
    interest: item.interest,
    score: item.score,
    shownScore: filled ? "" : item.score.toFixed(3),
    from: filled ? "popular" : String(item.interest + 1),
    style: filled ? "popular" : styleOf(item.interest),
    related: related.map((id) => titles.get(id) ?? id).join("; "),
    isNew: Boolean(known) && !known.has(item.item_id),
    inBoth: false,
  };
}

/** The class that gives an interest its colour; the number beside it says the same. */
const styleOf = (interest) => `interest-${interest % 8}`;

function notesOf(answer) {
  const given = answer.explanation.interests.map((_, at) => answer.items.filter((item) => item.interest === at).length);
  const reasons = { no_history: "no history", unknown_items: "no known item in the history", store_unavailable: "the store is unavailable", unreadable_history: "the stored history is not a list" };
  const notes = [`${answer.items.length} items`];
  if (answer.degraded_reason) notes.push(`popular items only: ${reasons[answer.degraded_reason] ?? answer.degraded_reason}`);
  if (answer.unknown_items) notes.push(`${answer.unknown_items} unknown items were skipped`);
  if (answer.filter) notes.push(Object.entries(answer.filter).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join(", "));
  for (const { experiment, arm } of answer.experiments ?? []) notes.push(`experiment ${experiment}: ${arm}`);
  return {
    listNote: notes.join(" · "),
    interestsNote: given.length ? `the best items of each; bold: ${given.join(" + ")} of the merged list` : "",
  };
}

function timesOf(stages) {
  const total = stages.reduce((sum, { ms }) => sum + ms, 0);
  return {
    timeNote: total ? `${total.toFixed(2)} ms in the service` : "",
    stages: stages.map(({ name, ms }) => ({
      name,
      shown: `${ms.toFixed(2)} ms`,
      style: `stage-${name}`,
      bar: { flexGrow: String(Math.max(ms, total / 100)) },
    })),
  };
}

/** What the item's dialog lists. */
export function factsOf(item, related) {
  const facts = [["id", item.item_id], ...Object.entries(item.metadata).map(([name, value]) => [name, textOf(value)])];
  if (item.score !== undefined && item.interest >= 0) facts.push(["score", `${item.shownScore}, interest ${item.interest + 1}`]);
  if (related) facts.push(["related to", related]);
  return facts.map(([name, value]) => ({ name, value }));
}
