/** The tab of the map: the catalogue in two dimensions, with the history and the hits of each interest. */

import { itemOf } from "./answer.js";
import { ask } from "./api.js";
import { svg } from "./chart.js";

const OTHERS = 2000;
const WIDTH = 1000; // of the drawing if that of the page is not known
const MARGIN = 30;
const REACH = 30; // how near the pointer must be to an item
const WALK = 10; // newest items of the history that are joined by a line

/** The state and the methods of the tab. What is drawn is kept beside the state: it is large, and nothing follows it. */
export function mapTab() {
  let others = [];
  let marked = [];
  let width = WIDTH; // a unit of the drawing is a pixel, until the window changes
  return {
    mapNote: "",
    mapError: "",
    mapShown: false,
    mapAround: false,
    mapGroups: [],

    async showMap() {
      const { answer } = this.panes[0];
      marked = answer ? markedItems(this.panes[0]) : [];
      try {
        const wanted = { items: marked.map((item) => item.item_id).slice(0, 5000), others: OTHERS, version: answer?.version };
        const { json } = await ask("POST", "explorer/map", wanted, this.headers());
        this.mapError = "";
        this.mapShown = json.available;
        this.mapNote = noteOf(json);
        others = json.others;
        marked = placed(marked, json.items);
        this.mapGroups = groupsOf(marked);
        await this.$nextTick();
        this.drawMap();
      } catch (error) {
        this.noteRefusal(error);
        this.mapError = error.message;
      }
    },

    zoomMap(around) {
      this.mapAround = around;
      this.drawMap();
    },

    drawMap() {
      if (!this.mapShown) return;
      const target = this.$refs.map;
      width = target.clientWidth || WIDTH;
      const box = boxOf(this.mapAround && marked.length ? marked : [...others, ...marked], width);
      target.setAttribute("viewBox", `0 0 ${width} ${box.height}`);
      for (const item of [...others, ...marked]) Object.assign(item, box.on(item));
      target.replaceChildren(dots(others), walk(marked), ...marked.map(markOf));
    },

    /** Names the item that is nearest to the pointer, and returns it. */
    pointAt(event) {
      const target = this.$refs.map;
      const { left, top, width: shown } = target.getBoundingClientRect();
      const scale = width / shown;
      const [x, y] = [(event.clientX - left) * scale, (event.clientY - top) * scale];
      const distance = (item) => Math.hypot(item.px - x, item.py - y);
      const near = [...marked, ...others].filter((item) => distance(item) < REACH);
      const found = near.reduce((best, item) => (best && distance(best) <= distance(item) ? best : item), undefined);
      this.point(found);
      return found;
    },
    point(item) {
      this.$refs.map.querySelector(".label")?.remove();
      if (item) this.$refs.map.append(labelOf(item, width));
    },
    async openAt(event) {
      const found = this.pointAt(event);
      if (found) await this.openPlace(found);
    },
    async openPlace({ item_id, item }) {
      if (item) return this.open(item, this.panes[0]);
      try {
        const { json } = await ask("GET", `items/${encodeURIComponent(item_id)}`, undefined, this.headers());
        return this.open(itemOf({ item_id, metadata: json.attributes }));
      } catch (error) {
        this.mapError = error.message;
      }
    },
  };
}

/** The items of a pane that are marked: its history, then the hits of each interest; an item once. */
function markedItems(pane) {
  const items = new Map();
  pane.history.forEach((item, at) => items.set(item.item_id, { group: "History", style: "past", number: "", at, item }));
  for (const interest of pane.interestLists) {
    for (const item of interest.hits) {
      const mark = { group: `Interest ${interest.number}`, style: `${interest.style} ${item.style}`, number: String(interest.number), item };
      if (!items.has(item.item_id) || item.style === "given") items.set(item.item_id, mark);
    }
  }
  return [...items].map(([item_id, mark]) => ({ item_id, title: mark.item.title, ...mark }));
}

/** The items that have a place, with it. */
function placed(items, places) {
  const of = new Map(places.map((place) => [place.item_id, place]));
  return items.filter((item) => of.has(item.item_id)).map((item) => ({ ...item, ...of.get(item.item_id) }));
}

function groupsOf(items) {
  const names = [...new Set(items.map((item) => item.group))];
  return names.map((name) => ({ name, items: items.filter((item) => item.group === name) }))
    .map((group) => ({ ...group, style: group.items[0].style, number: group.items[0].number }));
}

/** The part of the map that holds these places: its height on the page, and where a place lies on it. */
function boxOf(places, width) {
  const [xs, ys] = [places.map((place) => place.x), places.map((place) => place.y)];
  const [left, top] = [Math.min(...xs), Math.max(...ys)];
  const [wide, high] = [Math.max(Math.max(...xs) - left, 0.02), Math.max(top - Math.min(...ys), 0.02)];
  const scale = Math.min((width - 2 * MARGIN) / wide, Math.max(0.55 * width, 320) / high);
  const indent = (width - wide * scale) / 2;
  return {
    height: high * scale + 2 * MARGIN,
    on: ({ x, y }) => ({ px: indent + (x - left) * scale, py: MARGIN + (top - y) * scale }),
  };
}

const dots = (places) => svg("path", { class: "others", d: places.map(({ px, py }) => `M${px.toFixed(1)} ${py.toFixed(1)}h0`).join("") });

function walk(items) {
  const path = items.filter((item) => item.group === "History").sort((one, two) => one.at - two.at).slice(-WALK);
  return svg("polyline", { class: "walk", points: path.map(({ px, py }) => `${px},${py}`).join(" ") });
}

function markOf({ px, py, style, number }) {
  const circle = svg("circle", { cx: px, cy: py, r: number ? 10 : 6 });
  const text = number ? [svg("text", { x: px, y: py + 4, "text-anchor": "middle" }, number)] : [];
  return svg("g", { class: `place ${style}` }, circle, ...text);
}

function labelOf({ px, py, title }, width) {
  const onLeft = px > width / 2;
  const at = { x: px + (onLeft ? -14 : 14), y: py + 5, "text-anchor": onLeft ? "end" : "start" };
  return svg("g", { class: "label" }, svg("circle", { cx: px, cy: py, r: 13 }), svg("text", at, title));
}

function noteOf({ available, catalogue, others }) {
  if (!available) return "This version was exported without a map: export it again (recgpt export) to see one.";
  const drawn = others.length < catalogue ? `${others.length.toLocaleString("en")} of ${catalogue.toLocaleString("en")}` : `all ${catalogue.toLocaleString("en")}`;
  return `Dots: ${drawn} items. Near items are often similar; two dimensions keep only a part of what the network knows.`;
}
