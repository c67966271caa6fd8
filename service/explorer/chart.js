/** Line charts in SVG, as small as the explorer's tabs need them. */

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [420, 240, 52, 34, 12, 14];

/** Returns an SVG element with these attributes and children. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Returns the next value of 1, 2, 4, 6 or 8 times a power of ten, so that quarters of it are short. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

/**
 * Draws points [{x, y, label, marked}] as a line; the places of x are even, one for each point.
 * `shown` writes a value of y; `top` is the least end of its axis.
 */
export function drawLine(target, points, { shown, top = 0 }) {
  const most = roundUp(Math.max(top, ...points.map((point) => point.y)) || 1);
  const x = (at) => LEFT + ((at + 0.5) * (WIDTH - LEFT - RIGHT)) / points.length;
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP);
  const grid = [0, 0.25, 0.5, 0.75, 1].map((part) => part * most).flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, shown(value)),
  ]);
  const every = Math.ceil(points.length / 8);
  const labels = points.map((point, at) =>
    at % every && !point.marked ? "" : svg("text", { class: "tick", x: x(at), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, point.label));
  const line = svg("polyline", { class: "line", points: points.map((point, at) => `${x(at)},${y(point.y)}`).join(" ") });
  const dots = points.map((point, at) =>
    svg("circle", { class: point.marked ? "dot marked" : "dot", cx: x(at), cy: y(point.y), r: point.marked ? 6 : 3.5 },
      svg("title", {}, `${point.label}: ${shown(point.y)}`)));
  target.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  target.replaceChildren(...grid, ...labels.filter(Boolean), line, ...dots);
}
