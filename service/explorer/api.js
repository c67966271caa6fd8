/** Requests to the service, whose paths are relative to the page's address. */

/** An answer that is not a success; its message is the problem document's own words. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Sends a request; returns the JSON of the answer and its headers. Throws `Refused`. */
export async function ask(method, path, body, headers = {}) {
  const request = { method, headers: { ...headers } };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const text = await response.text();
  const json = text && (response.headers.get("content-type") ?? "").includes("json") ? JSON.parse(text) : {};
  if (!response.ok) throw new Refused(response.status, `${response.status}: ${json.detail ?? json.title ?? text}`);
  return { json, headers: response.headers };
}

/** The fields that a recall may have, and an example of one, from the OpenAPI document. */
export function describe(openapi) {
  const request = openapi.components?.schemas?.RecallRequest ?? {};
  return { fields: Object.keys(request.properties ?? {}), example: request.example ?? {} };
}

/** The header that carries a key. */
export function keyHeader(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** The path of a pane's recall, with its steps. */
export function recallPath({ arm, version }) {
  const named = Object.entries({ arm, version }).filter(([, value]) => value);
  return named.length ? `explorer/recall?${new URLSearchParams(named)}` : "explorer/recall";
}

/** A command for a shell that sends this recall; without its steps, unless it names an arm or a version. */
export function curlOf(pane, body, hasKey) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const path = pane.arm || pane.version ? recallPath(pane) : "recall";
  const lines = [`curl -s '${new URL(path, document.baseURI).href}'`, "-H 'content-type: application/json'"];
  if (hasKey) lines.push("-H \"authorization: Bearer $RECGPT_KEY\"");
  return [...lines, `-d '${quoted}'`].join(" \\\n  ");
}

/** The stages of a `Server-Timing` header: [{name, ms}, …]. */
export function stagesOf(headers) {
  return (headers.get("server-timing") ?? "").split(",").filter(Boolean).map((part) => {
    const [name, duration] = part.trim().split(";dur=");
    return { name, ms: Number(duration) };
  });
}
