// Keeps a page up to date: the part of it with data-live is replaced by what the server sends for the same address (admin/live.go). Without
// this script the page is the same, and does not change.
"use strict";

(() => {
  const live = document.querySelector("[data-live]");
  if (!live || !window.EventSource) return;
  const summary = document.getElementById("summary");
  const liveness = document.getElementById("liveness");
  let source = null;

  // replace puts new content in, and leaves what the reader did to the old: the focus, and what was opened.
  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").body;
    const focused = live.contains(document.activeElement) ? key(document.activeElement) : "";
    for (const open of live.querySelectorAll("details[id][open]")) {
      const same = fresh.querySelector("#" + CSS.escape(open.id));
      if (same) same.open = true;
    }
    const scrolled = [...live.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
    live.replaceChildren(...fresh.childNodes);
    live.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
    if (focused) {
      const same = [...live.querySelectorAll("a, button, input, summary, [tabindex]")].find((e) => key(e) === focused);
      if (same) same.focus({ preventScroll: true });
    }
  };

  // key tells an element from the others of the page, before and after it was replaced.
  const key = (e) => [e.tagName, e.id, e.getAttribute("href"), e.getAttribute("aria-labelledby"), e.getAttribute("data-device")].join(" ");

  const open = () => {
    if (source) return;
    source = new EventSource(location.href);
    source.onopen = () => { liveness.textContent = "This page is kept up to date."; };
    source.addEventListener("page", (e) => replace(e.data));
    source.addEventListener("summary", (e) => {
      if (summary && summary.textContent !== e.data) summary.textContent = e.data; // which screen readers say
    });
    source.onerror = () => {
      liveness.textContent = source.readyState === EventSource.CLOSED
        ? "This page is not kept up to date: reload it."
        : "The connection is lost and tried again.";
    };
  };
  const close = () => {
    if (source) source.close();
    source = null;
  };

  // A page that nobody sees needs no stream: a browser has only a few connections to one host.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  if (!document.hidden) open();
})();

// Follows a test notification: each step is put in as the server tells it. Without this script the form leads to a page with all steps.
(() => {
  const form = document.querySelector("form[data-test]");
  if (!form || !window.fetch || !window.ReadableStream) return;
  const steps = document.getElementById("steps");
  const verdict = document.getElementById("verdict");
  const button = form.querySelector("button");

  const nodes = (html) => [...new DOMParser().parseFromString(html, "text/html").body.childNodes];
  const hear = (name, data) => {
    if (name === "step") steps.append(...nodes(data));
    if (name === "verdict" || name === "refused") verdict.replaceChildren(...nodes(data));
  };

  // read gives every event of a stream to hear.
  const read = async (body) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const lines = event.split("\n");
        const of = (field) => lines.filter((l) => l.startsWith(field)).map((l) => l.slice(field.length)).join("\n");
        hear(of("event: "), of("data: "));
      }
    }
  };

  form.addEventListener("submit", async (e) => {
    e.preventDefault();
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true"); // and not disabled, which would take the focus away
    steps.replaceChildren();
    steps.hidden = false;
    verdict.textContent = "Under way …";
    try {
      const answer = await fetch(form.action, {
        method: "POST", headers: { Accept: "text/event-stream" }, body: new URLSearchParams(new FormData(form)),
      });
      if (answer.ok) await read(answer.body);
      else verdict.textContent = answer.status === 401 ? "The session has ended: reload the page." : await answer.text();
      if (verdict.textContent === "Under way …") verdict.textContent = "The connection was lost before the end.";
    } catch {
      verdict.textContent = "The connection was lost before the end.";
    }
    steps.hidden = steps.children.length === 0;
    button.removeAttribute("aria-disabled");
  });
})();
