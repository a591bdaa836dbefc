"use strict";
// Everything is on the page without this script; it sorts, copies, opens what a link points at, and switches the theme.
const say = (text) => { document.getElementById("said").textContent = text; };

const compare = (a, b) => {
  const one = Number(a), two = Number(b);
  return Number.isNaN(one) || Number.isNaN(two) ? a.localeCompare(b) : one - two;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], key = (row) => row.cells[column].dataset.key;
    const known = [...body.rows].filter((row) => key(row) !== undefined);
    const unknown = [...body.rows].filter((row) => key(row) === undefined);
    known.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
    body.append(...known, ...unknown); // what has no number stays last both ways
    say(`Sorted by ${heading.firstElementChild.textContent}, ${down ? "largest" : "smallest"} first`);
  }));
}

const byHand = (text) => { // where the browser refuses its clipboard
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
};
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("pre").textContent;
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch { done = byHand(text); }
    button.textContent = done ? "Copied" : "Select and copy by hand";
    button.focus();
    say(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

document.addEventListener("toggle", (event) => { // a record is spread over lines when it is first looked at
  const text = event.target.matches?.("details.raw[open]") && event.target.querySelector("pre.json");
  if (text) {
    text.classList.remove("json");
    try { text.textContent = JSON.stringify(JSON.parse(text.textContent), null, 1); } catch { /* shown as it is */ }
  }
}, true);

const open = () => {
  const wanted = document.getElementById(location.hash.slice(1)); // ids are plain: nothing to decode, which would throw for a bad "%"
  if (wanted?.tagName === "DETAILS") {
    wanted.open = true;
    wanted.scrollIntoView();
    wanted.firstElementChild.focus();
  }
};
addEventListener("hashchange", open);
for (const link of document.querySelectorAll("th a")) link.addEventListener("click", () => setTimeout(open)); // also a second time
open();

const machine = () => document.querySelectorAll("details.facts"); // paper can't be unfolded
addEventListener("beforeprint", () => machine().forEach((each) => { each.open = true; }));

const themes = ["system", "light", "dark"], button = document.getElementById("theme");
const kept = { // a page opened from a file may have no storage
  get: () => { try { return localStorage.getItem("ringzero-theme"); } catch { return null; } },
  set: (name) => { try { localStorage.setItem("ringzero-theme", name); } catch { /* for this visit only */ } },
};
const show = (name) => {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
};
let theme = themes.includes(kept.get()) ? kept.get() : "system";
show(theme);
button.hidden = false;
button.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  kept.set(theme);
  show(theme);
});
