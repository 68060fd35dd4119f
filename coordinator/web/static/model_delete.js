// Deleting a model: first what goes, what stays and what that frees; a large one must be named by its name.

import { post } from "./api.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";
import * as format from "./format.js";
import { remark, toast } from "./shell.js";

const LARGE = 10 * 2 ** 30; // bytes that take hours to fetch again

/** Ask, then delete a model, or one revision of it. Returns whether it is gone. Raises Problem. */
export async function askAndDelete(model, name, revision = "") {
  const wanted = { model_id: model.model_id, revision };
  const plan = await post("/api/models/delete", { ...wanted, dry_run: true });
  const yes = await ask({
    title: revision ? `Delete revision ${name}?` : `Delete ${name}?`,
    body: [frees(plan, revision ? 0 : model.files), el("p", {}, "From ", el("code", { text: model.path })), ...stays(plan)],
    yes: `Delete, free ${format.size(plan.frees_bytes)}`,
    danger: true,
    picture: "delete",
    no: "Keep it",
    typed: plan.frees_bytes >= LARGE ? name : "",
    can: plan.files > 0,
  });
  if (!yes) return false;
  const done = await post("/api/models/delete", wanted);
  if (done.failed.length) toast(`${format.counted(done.failed.length, "file")} could not be deleted: ${done.failed[0].path}: ${done.failed[0].reason}`, { bad: true });
  else toast(`${name} is deleted, ${format.size(done.frees_bytes)} are free again`);
  return true;
}

function frees(plan, files) {
  if (plan.files === 0) return el("p", { text: "There is nothing here that Shoal knows to be its own, so it deletes nothing." });
  return el("p", {}, el("span", { class: "figure", text: format.size(plan.frees_bytes) }), el("br"), el("span", { class: "muted", text: `become free; ${format.counted(files || plan.files, "file")} go for good` }));
}

function stays(plan) {
  if (plan.kept.length === 0) return [];
  const rest = plan.kept_more ? [el("li", { class: "muted", text: `and ${format.count(plan.kept_more)} more` })] : [];
  const list = el("ul", {}, ...plan.kept.slice(0, 8).map(({ path, reason }) => el("li", {}, el("code", { text: path }), ` ${reason}`)), ...rest);
  return [remark("", `${format.counted(plan.kept.length + plan.kept_more, "path")} stay`, list)];
}
