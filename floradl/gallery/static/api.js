// What the page asks of its server, and what the server tells it.

/** An answer that is not the one hoped for; its message is fit for people. */
export class ApiError extends Error {
  /** @param {number} status of HTTP, 0 where there was no answer @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Read a filter as a query. @param {Record<string, any>} filters @param {Record<string, any>} [more] */
export function query(filters, more = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...filters, ...more })) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") search.append(name, String(each));
    }
  }
  return search;
}

/** Ask for JSON. Throws `ApiError`; an aborted request throws `AbortError`.
 * @param {string} path @param {URLSearchParams | null} [search] @param {AbortSignal | null} [signal] */
export async function get(path, search = null, signal = null) {
  return answer(`${path}${search?.size ? `?${search}` : ""}`, { signal });
}

/** Change something: only where the server holds a token. @param {string} path */
export async function post(path) {
  return answer(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
}

async function answer(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", cache: "no-cache", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The gallery's server does not answer: is floradl gallery still running?");
  }
  if (response.ok) return response.json();
  throw new ApiError(response.status, await reason(response));
}

async function reason(response) {
  if (response.status === 401) return "This gallery needs its token: open the link that floradl printed.";
  try {
    const body = await response.json();
    return body.error?.message ?? body.error ?? body.message ?? `The server answered ${response.status}.`;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

/**
 * Listen to the server while the page is seen; a hidden page holds no connection.
 * @param {{status: (status: any) => void, outputs: (outputs: any[]) => void, back: () => void, lost: () => void}} heard
 *   `back` is called after each interruption: something may have been missed. `lost` when it does not come back.
 */
export function listen(heard) {
  let source = null;
  let interrupted = false;
  let timer = 0;
  const open = () => {
    source = new EventSource("/api/events");
    source.addEventListener("open", () => {
      clearTimeout(timer);
      timer = 0;
      if (interrupted) heard.back();
      interrupted = false;
    });
    source.addEventListener("status", (event) => heard.status(JSON.parse(event.data)));
    source.addEventListener("outputs", (event) => heard.outputs(JSON.parse(event.data).outputs));
    source.addEventListener("error", () => {
      interrupted = true;
      timer ||= setTimeout(() => heard.lost(), 3000);
      if (source.readyState === EventSource.CLOSED) {
        close();
        setTimeout(() => document.hidden || source || open(), 5000);
      }
    });
  };
  const close = () => {
    source?.close();
    source = null;
    interrupted = true;
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else if (!source) open();
  });
  if (document.hidden) interrupted = true;
  else open();
}
