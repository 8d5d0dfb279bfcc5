"use strict";
// Sort a table by a column: numbers by size, missing ones last, then text; a second click turns it round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const falling = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return falling ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// A number leads to the runs behind it: one at once, several by way of a list.
const dialog = document.querySelector("dialog");
const show = (id) => {
  const details = document.getElementById(id);
  if (!details) return;
  for (const other of document.querySelectorAll("details.here")) other.classList.remove("here");
  details.open = true;
  details.classList.add("here");
  details.scrollIntoView({ block: "start" });
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-runs]");
  if (!link) return;
  const ids = link.dataset.runs.split(" ");
  if (ids.length === 1) return;
  event.preventDefault();
  const list = dialog.querySelector("ul");
  list.replaceChildren(...ids.map((id) => {
    const item = document.createElement("li");
    const anchor = document.createElement("a");
    anchor.href = "#" + id;
    anchor.textContent = document.querySelector("#" + id + " summary").textContent;
    item.append(anchor);
    return item;
  }));
  dialog.showModal();
});
dialog.addEventListener("click", (event) => {
  if (event.target.closest("a") || event.target === dialog) dialog.close();
});
const follow = () => location.hash.startsWith("#run-") && show(location.hash.slice(1));
window.addEventListener("hashchange", follow);
follow();
// Paper has no clicks: tables that are folded away are printed, too.
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.long")) details.open = true;
});
