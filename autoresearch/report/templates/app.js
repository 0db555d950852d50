"use strict";
// Keeps a page up to date while its study runs. Without it every page works too, as of when it was loaded.

const status = document.getElementById("status");

async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  for (const old of document.querySelectorAll("[data-fresh]")) {
    const now = page.getElementById(old.id);
    if (now && now.innerHTML !== old.innerHTML) old.replaceChildren(...now.childNodes);
  }
  if (focused && document.activeElement === document.body) {
    document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

function listen() {
  const source = new EventSource("/events");
  source.addEventListener("open", () => { status.textContent = "live"; });
  source.addEventListener("error", () => { status.textContent = "no connection: is the dashboard still running?"; });
  source.addEventListener("now", (event) => {
    const card = document.getElementById("now");
    if (!card) return;
    const page = new DOMParser().parseFromString(JSON.parse(event.data), "text/html");
    card.replaceChildren(...page.body.childNodes);
  });
  source.addEventListener("news", refresh);
  addEventListener("pagehide", () => source.close());
}

function filter(form) {
  let waiting = 0;
  const show = () => {
    const wanted = new URLSearchParams(new FormData(form));
    history.replaceState(null, "", "/?" + wanted);
    refresh();
  };
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 150); });
  form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
}

listen();
const form = document.getElementById("filters");
if (form) filter(form);
