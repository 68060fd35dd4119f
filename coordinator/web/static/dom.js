// Makes and keeps elements. Text from outside becomes text nodes here and never anything else.

/** An element: class, text and other attributes; functions become listeners ("onclick"); children are nodes or texts. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** An element of SVG. */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A picture of templates/icons.html, which says nothing to a screen reader: a word always stands beside it. */
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** Set text only where it differs, so that selections and screen readers are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or take an attribute only where it differs. */
export function setAttribute(element, name, value) {
  if (value === null || value === false || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Let a container show items in their order, by key: what is there stays, with its focus, and is updated. */
export function keep(container, items, { key, make, update }) {
  const there = new Map([...container.children].map((child) => [child.dataset.key, child]));
  let place = container.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = there.get(name);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = name;
    }
    there.delete(name);
    if (child === place) place = place.nextElementSibling;
    else container.insertBefore(child, place);
    update?.(child, item);
  }
  for (const child of there.values()) child.remove();
}

/** Text in which addresses of web pages are links. Only http and https become one. */
export function linked(text) {
  const made = document.createDocumentFragment();
  for (const piece of text.split(/(https?:\/\/[^\s()<>"']+)/)) {
    if (!/^https?:\/\//.test(piece)) made.append(piece);
    else {
      const address = piece.replace(/[.,;:]+$/, "");
      made.append(el("a", { href: address, target: "_blank", rel: "noreferrer noopener", text: address }), piece.slice(address.length));
    }
  }
  return made;
}

/** A function that runs once, so many milliseconds after it was called last. */
export function later(run, wait) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), wait);
  };
}

/** A function that runs at most once a frame, with nothing given. */
export function onceAFrame(run) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      run();
    });
  };
}
