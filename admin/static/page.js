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
