// Before and after: the value under the pointer, or of the focused line, is lit wherever it is used, on both sides. Arrows move between lines.
{
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const prepare = (desc) => {
    if (desc.dataset.ready) return;
    desc.dataset.ready = "1";
    const lines = [...desc.querySelectorAll(".inputs li, .ops li")];
    for (const name of desc.querySelectorAll(".ops b")) name.closest("li").dataset.v = name.textContent;
    const names = [...new Set(lines.map((line) => line.dataset.v).filter(Boolean).flatMap((name) => name.split(", ")))].sort((a, b) => b.length - a.length);
    lines.forEach((line, place) => { line.tabIndex = place ? -1 : 0; });
    if (!names.length) return;
    const pattern = new RegExp(`(?<![\\w.])(${names.map(escaped).join("|")})(?!\\w)`, "g");
    for (const code of desc.querySelectorAll(".ops code")) {
      for (const node of [...code.childNodes]) {
        if (node.nodeType !== Node.TEXT_NODE) continue;
        const pieces = node.data.split(pattern).map((piece, place) => {
          if (place % 2 === 0) return piece;
          const span = document.createElement("span");
          span.textContent = span.dataset.u = piece;
          return span;
        });
        node.replaceWith(...pieces);
      }
    }
  };
  const dim = (desc) => {
    for (const lit of desc.querySelectorAll(".lit")) lit.classList.remove("lit");
  };
  const light = (desc, value) => {
    dim(desc);
    for (const name of value.split(", ")) {
      for (const element of desc.querySelectorAll("[data-v], [data-u]")) {
        if (element.dataset.u === name || element.dataset.v?.split(", ").includes(name)) element.classList.add("lit");
      }
    }
  };
  const valueAt = (element) => element.closest("[data-u]")?.dataset.u ?? element.closest("[data-v]")?.dataset.v;
  const handle = (event) => {
    const desc = event.target.closest?.(".desc");
    if (!desc) return;
    prepare(desc);
    const value = valueAt(event.target);
    if (value) light(desc, value);
    else if (event.type === "pointerover") dim(desc);
  };
  document.addEventListener("pointerover", handle);
  document.addEventListener("focusin", handle);
  document.addEventListener("focusout", (event) => { const desc = event.target.closest?.(".desc"); if (desc) dim(desc); });
  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details.call[open]")) for (const desc of event.target.querySelectorAll(".desc")) prepare(desc);
  }, true);
  document.addEventListener("keydown", (event) => {
    const line = event.target.closest?.(".ops li, .inputs li");
    if (!line || !["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    const lines = [...line.closest(".desc").querySelectorAll(".inputs li, .ops li")];
    const place = lines.indexOf(line);
    const step = { ArrowDown: place + 1, ArrowRight: place + 1, ArrowUp: place - 1, ArrowLeft: place - 1, Home: 0, End: lines.length - 1 }[event.key];
    const next = lines[Math.max(0, Math.min(lines.length - 1, step))];
    event.preventDefault();
    line.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
