// The page to log in: with a password or a token; then on to where somebody wanted to go.

import { base, forgetSession, post, whoAsks } from "./api.js";
import { byId } from "./dom.js";
import { act, note } from "./shell.js";

/** A path of ours to go on to; nothing that could lead to another site. */
function next() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  const there = new URL(base + wanted, location.origin);
  return /^\/(?!\/)/.test(wanted) && there.origin === location.origin && there.pathname.startsWith(`${base}/`) ? there.href : `${base}/`;
}

async function logIn() {
  const token = byId("token").value.trim();
  const body = token ? { token } : { user: byId("user").value, password: byId("password").value };
  byId("login-state").replaceChildren();
  try {
    await post("/api/login", body);
  } catch (error) {
    byId("login-state").replaceChildren(note(error));
    byId(token ? "token" : "password").select();
    return;
  }
  forgetSession();
  location.assign(next());
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter ?? event.target.querySelector("button"), logIn);
});
whoAsks()
  .then((session) => {
    if (!session.login_required) location.replace(next());
    else byId("user").focus();
  })
  .catch((error) => byId("login-state").replaceChildren(note(error, () => location.reload())))
  .finally(() => (document.documentElement.dataset.ready = "true"));
