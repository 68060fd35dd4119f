// One model in detail: where it came from, its revisions, its files.

import { get, part } from "./api.js";
import { el, icon } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./job_parts.js";
import { askAndDelete } from "./model_delete.js";
import { act, note, wait } from "./shell.js";

const FILES_SHOWN = 100;
const STATES = { "": null, missing: ["failed", "bad", "Missing"], changed: ["warning", "warn", "Changed"] };

/** Details of a model, asked for when this is made. changed: called after something was deleted. */
export class ModelMore {
  constructor(model, changed) {
    this._model = model;
    this._changed = changed;
    this._shown = FILES_SHOWN;
    this.box = el("div", { "aria-live": "polite" }, wait("Loading …"));
    this._load();
  }

  async _load() {
    try {
      this._show(await get(`/api/models/${part(this._model.model_id)}`));
    } catch (error) {
      this.box.replaceChildren(note(error, () => this._load()));
    }
  }

  _show({ model, files, files_total: total }) {
    const facts = [
      model.source && ["Source", model.source],
      ["Folder", model.path],
      model.latest && model.freshness === "outdated" && ["Newest", format.commit(model.latest)],
      model.checked_at && ["Asked", format.ago(model.checked_at)],
      model.freshness === "unknown" && model.reason && ["Not known", model.reason],
    ].filter(Boolean);
    this.box.replaceChildren(
      el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", { text: name }), el("dd", { text })])),
      this._revisions(model),
      this._files(files, total),
    );
  }

  _revisions(model) {
    const rows = model.revisions.map((revision) => {
      const name = `${revision.refs.join(", ") || "by commit"} @ ${format.commit(revision.commit)}`;
      const remove = model.revisions.length > 1 ? el("button", { type: "button", class: "quiet", onclick: (event) => act(event.currentTarget, () => this._remove(model, revision, name)) }, icon("delete"), "Delete") : null;
      return el(
        "tr",
        {},
        el("th", { scope: "row", text: name }),
        el("td", { class: "num", "data-label": "Files", text: format.count(revision.files) }),
        el("td", { class: "num", "data-label": "Size", text: format.size(revision.bytes) }),
        el("td", { "data-label": "Fetched", text: format.ago(revision.fetched_at) }),
        el("td", { class: "actions" }, remove),
      );
    });
    const head = ["Revision", "Files", "Size", "Fetched", "Actions"].map((text, index) => el("th", { scope: "col", class: index === 1 || index === 2 ? "num" : "" }, index === 4 ? el("span", { class: "sr", text }) : text));
    return el("table", { class: "rows stack" }, el("caption", { class: "sr", text: "Revisions on disk" }), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
  }

  async _remove(model, revision, name) {
    if (await askAndDelete(model, name, revision.commit)) this._changed();
  }

  _files(files, total) {
    const rows = el("tbody");
    const more = el("button", { type: "button", class: "quiet" }, "Show more");
    const draw = () => {
      rows.replaceChildren(...files.slice(0, this._shown).map((file) => el("tr", {}, el("th", { scope: "row", class: "name", text: file.path }), el("td", { "data-label": "State" }, STATES[file.state] ? badge(STATES[file.state]) : null), el("td", { class: "num", "data-label": "Size", text: format.size(file.bytes) }))));
      more.hidden = files.length <= this._shown;
    };
    more.addEventListener("click", () => {
      this._shown += 500;
      draw();
    });
    draw();
    const head = ["File", "State", "Size"].map((text, index) => el("th", { scope: "col", class: index === 2 ? "num" : "", text }));
    const cut = total > files.length ? el("p", { class: "hint", text: `${format.count(total - files.length)} more are not listed.` }) : null;
    return el("details", { class: "more" }, el("summary", { text: format.counted(total, "file") }), el("table", { class: "rows stack" }, el("caption", { class: "sr", text: "Files on disk" }), el("thead", {}, el("tr", {}, ...head)), rows), more, cut);
  }
}
