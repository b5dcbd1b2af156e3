// Building the page from values. Text is always set as text, never as HTML: names and reasons are strangers'.

export const find = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null).map(textOf));
  return node;
}

// A stranger's words, which must not change the direction of those around them.
export const quoted = (text) => make("bdi", {}, text);

export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function badge(text, kind) {
  return make("span", { class: "badge", "data-kind": kind }, text);
}

export function table(node, columns, rows, nothing) {
  const head = make("thead", {}, make("tr", {}, ...columns.map(([name, kind]) => make("th", { scope: "col", class: kind }, name))));
  const body = make("tbody", {});
  for (const row of rows) {
    const cells = row.map((cell, place) =>
      make(place ? "td" : "th", { class: columns[place][1], scope: place ? undefined : "row" }, ...[cell].flat()));
    body.append(make("tr", {}, ...cells));
  }
  if (!rows.length) body.append(make("tr", {}, make("td", { class: "none", colspan: columns.length }, nothing)));
  node.replaceChildren(head, body);
}

function textOf(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}
