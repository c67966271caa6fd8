/** The tab of the index: its hits beside exact ones, by the number of lists that are searched. */

import { ask } from "./api.js";
import { drawLine } from "./chart.js";

const SAMPLE = 64; // interests that are measured, a few in each request
const PART = 4;
const BUSY = [429, 503];

/** The state and the methods of the tab. */
export function qualityTab() {
  return {
    quality: null, // the last answer
    qualityHits: 100,
    qualityRows: [],
    qualityNote: "",
    qualityError: "",
    measuring: false,

    async showIndex() {
      if (!this.quality && !this.measuring) await this.measure();
    },

    /** Measures part after part of the sample, and shows the figures so far after each. */
    async measure() {
      this.measuring = true;
      this.qualityError = "";
      let [measured, totals, interests] = [0, [], SAMPLE];
      while (this.measuring && measured < interests) {
        try {
          const part = await this.measurePart(measured);
          interests = Math.min(SAMPLE, part.sample);
          totals = part.depths.map((depth, at) => added(totals[at], depth, part.measured));
          measured += part.measured;
          this.showQuality(part, totals, measured);
          if (!part.measured) break;
        } catch (error) {
          this.noteRefusal(error);
          this.qualityError = BUSY.includes(error.status) ? `${error.message} The figures are of ${measured} interests.` : error.message;
          break;
        }
      }
      this.measuring = false;
    },
    stopMeasuring() { this.measuring = false; },

    async measurePart(first) {
      const query = new URLSearchParams({ first, count: PART, hits: this.qualityHits });
      return (await ask("POST", `explorer/index?${query}`, undefined, this.headers())).json;
    },

    showQuality(part, totals, measured) {
      this.quality = part;
      this.qualityRows = totals.map((total) => rowOf(total, measured, part));
      this.qualityNote = noteOf(part, measured);
      if (totals.length < 2) return;
      const points = this.qualityRows.map((row) => ({ label: row.depth, marked: row.served, recall: row.recall, ms: row.ms }));
      drawLine(this.$refs.recallChart, points.map((point) => ({ ...point, y: point.recall })), { shown: (value) => value.toFixed(2), top: 1 });
      drawLine(this.$refs.timeChart, points.map((point) => ({ ...point, y: point.ms })), { shown: shownMs });
    },
  };
}

/** A depth over all interests so far: the sum of recalls, and the times of the parts. */
function added(total = { recall: 0, times: [] }, depth, count) {
  return { ...depth, recall: total.recall + depth.recall * count, times: [...total.times, depth.ms] };
}

function rowOf(total, measured, { lists }) {
  const [recall, ms] = [total.recall / measured, median(total.times)];
  return {
    recall, ms,
    served: total.served,
    depth: lists ? String(total.lists) : "all items",
    share: lists ? `${((100 * total.lists) / lists).toFixed(1)} %` : "100 %",
    shownRecall: recall.toFixed(4),
    shownMs: shownMs(ms),
    note: total.served ? "what a recall searches" : "",
  };
}

const median = (values) => [...values].sort((one, two) => one - two)[Math.floor((values.length - 1) / 2)];

const shownMs = (ms) => (ms >= 10 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(3));

function noteOf({ kind, items, lists, hits, sample }, measured) {
  const catalogue = items.toLocaleString("en");
  if (kind === "gpu") return `A GPU searches all ${catalogue} items; there is no index to measure.`;
  if (!sample) return "This bundle keeps no interests of users to measure with: export it again.";
  const about = `${hits} best hits of ${measured} interests of users, which the export sampled; each searched alone.`;
  if (kind === "exact") return `Every recall searches all ${catalogue} items, by an exact index. ${about}`;
  return `${catalogue} items in ${lists.toLocaleString("en")} lists. ${about}`;
}
