"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const find = (id) => document.getElementById(id);

  // Colours: like the system, light, dark.
  const themes = [["", "◐", "like the system"], ["light", "☀", "light"], ["dark", "☾", "dark"]];
  const remembered = () => { try { return localStorage.getItem("graphprune-theme") || ""; } catch { return ""; } };
  const wear = (name) => {
    const [theme, sign, text] = themes.find((known) => known[0] === name) || themes[0];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    find("theme").textContent = sign;
    find("theme").title = `Colours: ${text}`;
    find("theme").setAttribute("aria-label", `Colours: ${text}`);
    try { localStorage.setItem("graphprune-theme", theme); } catch { /* a page from a file may store nothing */ }
  };
  wear(remembered());
  find("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "";
    wear(themes[(themes.findIndex((known) => known[0] === now) + 1) % themes.length][0]);
  });

  // Rows that hold all words of a search, and have the status that is chosen.
  const chosen = {};
  const filter = (id) => {
    const table = find(id);
    const words = all(`[data-filters="${id}"]`)[0].value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("tbody tr", table);
    let shown = 0, possible = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const minor = row.classList.contains("minor") && !table.classList.contains("all");
      row.hidden = !words.every((word) => text.includes(word)) || (chosen[id] && row.dataset.status !== chosen[id]);
      possible += !minor;
      shown += !minor && !row.hidden;
    }
    all(`[data-shown="${id}"]`)[0].textContent = `${shown} of ${possible} rows`;
  };
  for (const field of all("[data-filters]")) {
    field.addEventListener("input", () => filter(field.dataset.filters));
    filter(field.dataset.filters);
  }
  for (const chip of all(".chips button")) {
    chip.addEventListener("click", () => {
      chosen["groups-table"] = chip.dataset.status;
      for (const other of all(".chips button")) other.setAttribute("aria-pressed", String(other === chip));
      filter("groups-table");
    });
  }
  for (const box of all("[data-toggles]")) {
    box.addEventListener("change", () => {
      find(box.dataset.toggles).classList.toggle(box.dataset.class, box.checked);
      if (box.dataset.refilters) filter(box.dataset.refilters);
    });
  }

  // Tables are sorted by the column whose head is pressed, numbers from the largest one.
  for (const button of all("[data-sort]")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = button.closest("table").tBodies[0];
      const number = button.dataset.sort === "number", place = head.cellIndex;
      const falling = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : number;
      for (const other of all("th", head.parentNode)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();
      const order = number ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      body.append(...[...body.rows].sort((a, b) => (falling ? order(b, a) : order(a, b))));
    });
  }

  // A row that is pointed to from elsewhere is shown, whatever hides it.
  const reveal = () => {
    const row = location.hash && document.querySelector(`tr[id="${CSS.escape(location.hash.slice(1))}"]`);
    if (!row || !(row.hidden || row.offsetParent === null)) return;
    row.hidden = false;
    if (row.classList.contains("minor")) row.closest("table").classList.add("all");
    row.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);

  // What the pointer or the keyboard is on tells its figures.
  const tip = find("tip");
  const show = (event) => {
    const from = event.target.closest("[data-tip]");
    if (!from) { tip.hidden = true; return; }
    tip.textContent = from.dataset.tip;
    tip.hidden = false;
    const box = from.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const x = event.clientX || box.left, y = event.clientY || box.bottom;
    tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - own.width - 8))}px`;
    tip.style.top = `${y + 18 + own.height > innerHeight ? Math.max(4, y - own.height - 12) : y + 18}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("focusin", show);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // The coupling map: buttons, keys and Ctrl with the wheel change its size, dragging moves it.
  const drawing = find("map-drawing");
  if (!drawing) return;
  const frame = drawing.parentNode, [width, height] = [drawing.viewBox.baseVal.width, drawing.viewBox.baseVal.height];
  let scale = 1;
  const zoom = (wanted, x = frame.clientWidth / 2, y = frame.clientHeight / 2) => {
    const next = Math.min(4, Math.max(0.2, wanted)), left = (frame.scrollLeft + x) / scale, top = (frame.scrollTop + y) / scale;
    scale = next;
    drawing.setAttribute("width", width * scale);
    drawing.setAttribute("height", height * scale);
    frame.scrollLeft = left * scale - x;
    frame.scrollTop = top * scale - y;
  };
  const fit = () => zoom(Math.min(1.5, frame.clientWidth / width));
  const step = (text) => (text === "fit" ? fit() : zoom(scale * Number(text)));
  for (const button of all("[data-zoom]")) button.addEventListener("click", () => step(button.dataset.zoom));
  frame.addEventListener("keydown", (event) => {
    const wanted = { "+": 1.25, "=": 1.25, "-": 0.8, 0: "fit" }[event.key];
    if (wanted === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(wanted);
  });
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the wheel alone scrolls the page
    event.preventDefault();
    const box = frame.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  let grip = null;
  frame.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) grip = [event.clientX + frame.scrollLeft, event.clientY + frame.scrollTop, false];
  });
  addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = [grip[0] - event.clientX, grip[1] - event.clientY];
    grip[2] ||= Math.abs(x - frame.scrollLeft) + Math.abs(y - frame.scrollTop) > 4;
    if (!grip[2]) return;
    frame.classList.add("dragged");
    [frame.scrollLeft, frame.scrollTop] = [x, y];
  });
  addEventListener("pointerup", () => {
    frame.classList.remove("dragged");
    if (grip && grip[2]) { // the click that ends a drag follows no link
      const stop = (event) => event.preventDefault();
      frame.addEventListener("click", stop, true);
      setTimeout(() => frame.removeEventListener("click", stop, true));
    }
    grip = null;
  });
  frame.addEventListener("dragstart", (event) => event.preventDefault());
  if (frame.clientWidth < width) zoom(Math.max(0.8, frame.clientWidth / width), 0, 0);
  else fit();
})();
