// What of a source is picked: groups by quantization, everything, or single files. No request is made here.

import { byId, el, later } from "./dom.js";
import * as format from "./format.js";

const FILES_SHOWN = 200;

/** As Python's glob.escape: a pattern that only this path matches. */
export const escapeGlob = (path) => path.replace(/[*?[]/g, "[$&]");

/** The picks of one inspected source. onChange is called after each of the user's. */
export class Picks {
  constructor(found, onChange) {
    this._found = found;
    this._onChange = onChange;
    this._sizes = new Map(found.files.map((file) => [file.path, file.size ?? 0]));
    this._byPattern = new Map(found.files.map((file) => [escapeGlob(file.path), file.path]));
    this._groups = new Set(found.groups.filter((group) => group.default).map((group) => found.groups.indexOf(group)));
    this._files = new Set();
    this._shown = FILES_SHOWN;
    this.mode = this._groups.size > 0 ? "groups" : "all";
  }

  /** What POST /download takes as include; null where nothing is picked. */
  get include() {
    if (this.mode === "all") return [];
    if (this.mode === "files") return this._files.size ? [...this._files].map(escapeGlob) : null;
    const patterns = new Set([...this._groups].flatMap((index) => this._found.groups[index].include));
    return patterns.size ? [...patterns] : null;
  }

  /** How many files, and how many bytes. Counts what groups share once. */
  get sum() {
    if (this.mode === "all") return { files: this._found.files_total, bytes: this._found.bytes_total };
    const paths = new Set((this.include ?? []).map((pattern) => this._byPattern.get(pattern) ?? pattern));
    let bytes = 0;
    for (const path of paths) bytes += this._sizes.get(path) ?? 0;
    return { files: paths.size, bytes };
  }

  show() {
    const has = this._found.groups.length > 0;
    for (const input of byId("what").querySelectorAll("input")) {
      input.checked = input.value === this.mode;
      input.onchange = () => {
        this.mode = input.value;
        this._showMode();
        this._onChange();
      };
      if (input.value === "groups") input.parentElement.hidden = !has;
      if (input.value === "files") input.parentElement.hidden = this._found.files.length < 2;
    }
    byId("what").hidden = !has && this._found.files.length < 2;
    this._showGroups();
    byId("file-filter").value = "";
    byId("file-filter").oninput = later(() => this._showFiles(), 120);
    byId("files-more").onclick = () => {
      this._shown += 500;
      this._showFiles();
    };
    byId("files-all").onclick = () => this._pickShown(true);
    byId("files-none").onclick = () => this._pickShown(false);
    this._showMode();
  }

  _showMode() {
    byId("groups").hidden = this.mode !== "groups";
    byId("files").hidden = this.mode !== "files";
    if (this.mode === "files") this._showFiles();
  }

  _showGroups() {
    const rows = this._found.groups.map((group, index) => this._groupRow(group, index));
    byId("group-rows").replaceChildren(...rows);
    byId("rest-note").textContent = this._restNote();
  }

  /** What becomes of files that are no weights: a GGUF file has in it what the others need beside them. */
  _restNote() {
    const { groups, rest, rest_bytes: bytes } = this._found;
    if (rest.length === 0) return "";
    const files = `${format.counted(rest.length, "file")}, ${format.size(bytes)}`;
    if (groups.some((group) => group.include.length > group.files.length)) return `Configuration, tokenizer and texts come with them: ${files}.`;
    return `What is beside the weights is not needed for them and left out: ${files}. Everything or Single files fetches it.`;
  }

  _groupRow(group, index) {
    const id = `group-${index}`;
    const tick = el("input", { type: "checkbox", id });
    tick.checked = this._groups.has(index);
    const row = el("tr", { class: `${tick.checked ? "picked" : ""} ${group.sidecar ? "side" : ""}` });
    tick.addEventListener("change", () => {
      if (tick.checked) this._groups.add(index);
      else this._groups.delete(index);
      row.classList.toggle("picked", tick.checked);
      this._onChange();
    });
    const label = el("label", { for: id }, el("span", { class: "tag", text: group.label || group.kind }));
    if (group.sidecar) label.append(el("span", { class: "muted", text: " beside the weights" }));
    else if (group.default) label.append(el("span", { class: "badge ok", text: "suggested" }));
    const files = el("td", { class: "num", text: format.count(group.files.length) });
    if (group.missing) files.append(el("span", { class: "sub", text: `${format.count(group.missing)} missing` }));
    const bits = group.bits ? el("span", { class: "sub", text: `${format.number(group.bits)} bits a weight` }) : null;
    row.append(
      el("td", { class: "tick" }, tick),
      el("td", {}, label, bits),
      el("td", { class: "name" }, el("span", { text: group.name }), el("span", { class: "sub", text: group.shards > 1 ? `${group.kind}, ${group.shards} shards` : group.kind })),
      files,
      el("td", { class: "num", text: format.size(group.bytes) }),
    );
    return row;
  }

  _matching() {
    const words = byId("file-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    return this._found.files.filter((file) => words.every((word) => file.path.toLowerCase().includes(word)));
  }

  _showFiles() {
    const matching = this._matching();
    const rows = matching.slice(0, this._shown).map((file, index) => this._fileRow(file, index));
    if (rows.length === 0) rows.push(el("tr", {}, el("td", { colspan: 3, class: "muted", text: "No file has such a name." })));
    byId("file-rows").replaceChildren(...rows);
    const more = byId("files-more");
    more.hidden = matching.length <= this._shown;
    more.textContent = `Show more of ${format.counted(matching.length, "file")}`;
  }

  _fileRow(file, index) {
    const id = `file-${index}`;
    const tick = el("input", { type: "checkbox", id });
    tick.checked = this._files.has(file.path);
    const row = el("tr", { class: tick.checked ? "picked" : "" });
    tick.addEventListener("change", () => {
      if (tick.checked) this._files.add(file.path);
      else this._files.delete(file.path);
      row.classList.toggle("picked", tick.checked);
      this._onChange();
    });
    row.append(
      el("td", { class: "tick" }, tick),
      el("td", { class: "name" }, el("label", { for: id, text: file.path })),
      el("td", { class: "num", text: format.size(file.size) }),
    );
    return row;
  }

  _pickShown(picked) {
    for (const { path } of this._matching()) {
      if (picked) this._files.add(path);
      else this._files.delete(path);
    }
    this._showFiles();
    this._onChange();
  }
}
