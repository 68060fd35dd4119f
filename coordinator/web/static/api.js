// Asks the REST API: knows base_url, the token against cross-site requests, and what a problem document is.

export const base = document.documentElement.dataset.baseUrl;

/** What went wrong, in the API's words: code, thing, cause, remedy, retryable, status. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `HTTP ${status}`);
    this.status = status;
    this.code = document.code || "";
    this.thing = document.thing || "";
    this.cause = document.cause || this.message;
    this.remedy = document.remedy || "";
    this.retryable = document.retryable ?? true;
  }
}

let session = null;

/** Who asks: asked once, and again after `forgetSession`. */
export function whoAsks() {
  session ??= ask("GET", "/api/session").catch((error) => {
    session = null;
    throw error;
  });
  return session;
}

export function forgetSession() {
  session = null;
}

/** GET a path of the API. Parameters that are empty are left out. Raises Problem; AbortError when signal says so. */
export function get(path, parameters = {}, { signal } = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value != null));
  return ask("GET", query.size ? `${path}?${query}` : path, { signal });
}

/** POST to a path of the API with the token that changes need. A token of before a restart is renewed once. Raises Problem. */
export async function post(path, body) {
  try {
    return await change(path, body);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 403 || error.thing !== "X-CSRF-Token") throw error;
    forgetSession();
    return change(path, body);
  }
}

async function change(path, body) {
  const { csrf_token: token } = await whoAsks();
  return ask("POST", path, { headers: token ? { "X-CSRF-Token": token } : {}, body });
}

async function ask(method, path, { headers = {}, body, signal } = {}) {
  const options = { method, headers: { Accept: "application/json", ...headers }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(base + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {
      code: "unreachable",
      detail: "The coordinator does not answer",
      cause: "the coordinator does not answer",
      remedy: "see whether it runs (shoal status), then try again",
    });
  }
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  if (answer.status === 401 && path !== "/api/login") toLogin();
  throw new Problem(answer.status, value);
}

/** Leave for the login, and come back to where we are. */
export function toLogin() {
  if (document.documentElement.dataset.page === "login") return;
  const here = location.pathname.slice(base.length) + location.search;
  location.assign(`${base}/login?next=${encodeURIComponent(here)}`);
}

/** A part of a path of the API, whatever it holds. */
export const part = encodeURIComponent;
