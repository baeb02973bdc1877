(() => {
  "use strict";
  let closed = false; // whether the filters were put away on a narrow screen, once
  let wanted = null; // the button to have the focus again once the results are drawn anew

  const holder = (box) => document.getElementById({ search: "cx-results", classify: "cx-predictions" }[box] || "");

  const listeners = {}; // of each box, what tells the server

  window.chiasm = { listen: (box, trigger) => { listeners[box] = trigger; } };

  const send = (box, message) => {
    const shown = holder(box);
    if (!listeners[box] || (shown && shown.classList.contains("cx-busy"))) return;
    if (shown) {
      shown.classList.add("cx-busy");
      setTimeout(() => shown.classList.remove("cx-busy"), 15000);
    }
    listeners[box]("click", message);
  };

  const jump = (button) => {
    const player = button.closest(".cx-hit").querySelector("audio, video");
    if (!player) return;
    player.currentTime = Number(button.dataset.start);
    player.play().catch(() => {}); // where the browser does not let it play by itself, it stands at the moment
  };

  const openTab = (name) => {
    const tab = [...document.querySelectorAll('#cx-tabs [role="tab"]')].find((one) => one.textContent.trim() === name);
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  };

  document.addEventListener("click", (event) => {
    const target = event.target;
    if (!(target instanceof Element)) return;
    const dot = target.closest(".cx-map circle");
    if (dot) {
      choose(dot);
      return;
    }
    const moment = target.closest(".cx-jump");
    if (moment) {
      jump(moment);
      return;
    }
    const button = target.closest("button[data-act]");
    if (!button) return;
    const { box, act, id } = button.dataset;
    const cards = [...document.querySelectorAll("#cx-results .cx-hit")];
    wanted = { act, place: cards.indexOf(button.closest(".cx-hit")) };
    if (act === "like") openTab("Search");
    if (act === "like" || act === "next" || act === "previous") wanted = { act: "top", place: -1 };
    send(box, { act, id });
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.dataset.act) return;
    event.preventDefault();
    wanted = null;
    send(form.dataset.box, { id: form.dataset.id, label: form.elements.label.value });
  });

  const choose = (dot) => {
    for (const old of document.querySelectorAll(".cx-map circle.cx-on")) old.classList.remove("cx-on");
    dot.classList.add("cx-on");
    dot.parentNode.appendChild(dot);
    send("map", { id: dot.dataset.id });
  };

  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const walk = (map, [right, down]) => {
    const at = (dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))];
    const dots = [...map.querySelectorAll("circle")];
    const from = map.querySelector("circle.cx-at");
    const [x, y] = from ? at(from) : [450, 280];
    let best = null;
    let least = Infinity;
    for (const dot of dots) {
      const [dx, dy] = [at(dot)[0] - x, at(dot)[1] - y];
      const ahead = dx * right + dy * down;
      const beside = Math.abs(dx * down) + Math.abs(dy * right);
      if (dot === from || ahead <= 0.5 || beside > 2 * ahead) continue;
      if (ahead + beside < least) [best, least] = [dot, ahead + beside];
    }
    if (!best) return;
    if (from) from.classList.remove("cx-at");
    best.classList.add("cx-at");
    best.parentNode.appendChild(best);
  };

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (!(target instanceof Element) || event.ctrlKey || event.metaKey || event.altKey) return;
    const map = target.closest(".cx-map svg");
    if (map && steps[event.key]) {
      walk(map, steps[event.key]);
      event.preventDefault();
    } else if (map && event.key === "Enter") {
      const dot = map.querySelector("circle.cx-at");
      if (dot) choose(dot);
    } else if (event.key === "/" && !target.closest("input, textarea, select")) {
      const field = document.querySelector("#cx-words textarea, #cx-words input");
      if (field && field.offsetParent) {
        field.focus();
        event.preventDefault();
      }
    }
  });

  const drawn = () => {
    for (const shown of document.querySelectorAll(".cx-busy")) shown.classList.remove("cx-busy");
    if (!wanted) return;
    if (wanted.act === "top") {
      const top = document.getElementById("cx-results");
      if (top && top.getBoundingClientRect().top < 0) top.scrollIntoView();
    }
    for (const wait of [0, 100, 300]) setTimeout(refocus, wait, wanted); // Gradio may draw the same once more
    wanted = null;
  };

  const refocus = ({ act, place }) => {
    if (document.activeElement && document.activeElement !== document.body) return;
    const cards = document.querySelectorAll("#cx-results .cx-hit");
    const card = cards[Math.min(Math.max(place, 0), cards.length - 1)];
    const kind = { off: "up", top: "like" }[act] || act;
    const button = card && (card.querySelector(`button[data-act="${kind}"]`) || card.querySelector("button"));
    if (button) button.focus({ preventScroll: true });
  };

  const watch = () => {
    const seen = new WeakSet();
    const look = () => {
      for (const box of ["search", "classify"]) {
        const shown = holder(box);
        if (!shown || seen.has(shown)) continue;
        seen.add(shown);
        let last = null;
        new MutationObserver(() => {
          const now = shown.querySelector("[data-drawn]")?.dataset.drawn;
          if (now === last) return; // a spinner, or pictures of before
          last = now;
          drawn();
        }).observe(shown, { childList: true, subtree: true, attributeFilter: ["data-drawn"] });
      }
    };
    const more = closed || window.innerWidth >= 700 ? null : document.querySelector("#cx-more > button");
    if (more && more.classList.contains("open")) more.click();
    else if (more) closed = true;
    const words = document.querySelector("#cx-words textarea, #cx-words input");
    if (words && !words.hasAttribute("aria-label")) words.setAttribute("aria-label", "Search in words");
    look();
  };
  new MutationObserver(watch).observe(document.documentElement, { childList: true, subtree: true });
})();
