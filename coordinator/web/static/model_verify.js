// Verifying a model: its files are read and hashed where they lie; what is wrong can be fetched again.

import { get, part, post } from "./api.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";
import * as format from "./format.js";
import { remark, toast } from "./shell.js";

const AGAIN_MS = 700;

/** Verify a model, then say what was found. Raises Problem. */
export async function verify(model, name) {
  let found = await post("/api/models/verify", { model_id: model.model_id });
  if (found.state === "running") toast(`Verifying ${name}: ${format.size(found.bytes_total)} are read`);
  while (found.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    found = await get(`/api/models/${part(model.model_id)}/verification`);
  }
  if (found.state === "failed") return toast(`${name} could not be verified: ${found.reason}`, { bad: true });
  if (found.problems_total === 0) return toast(`${name}: all right, ${format.counted(found.checked, "file")} and ${format.size(found.bytes)} verified`);
  const list = el("ul", {}, ...found.problems.slice(0, 20).map(({ kind, text }) => el("li", {}, el("strong", { text: kind }), ` ${text}`)));
  const wrong = format.counted(found.problems_total, "file");
  const repair = await ask({
    title: `${name}: ${wrong} wrong`,
    body: [remark("bad", `${wrong} of ${format.count(found.checked)} not as they should be`, list), el("p", { text: "They can be fetched again from the revision that they are of. All others stay." })],
    yes: "Fetch them again",
    no: "Leave them",
    picture: "retry",
  });
  if (!repair) return undefined;
  const { jobs } = await post("/api/models/repair", { model_id: model.model_id });
  return toast(`${format.counted(jobs.length, "repair")} under way`, { link: [jobs.length === 1 ? `/activity?job=${part(jobs[0].job.job_id)}` : "/activity", "Watch"] });
}
