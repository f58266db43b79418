// Filters and search. The choice is in the address (`#?status=missed&q=norm`), so a link to it can be sent.
{
  const form = document.getElementById("filters");
  const entries = [...document.querySelectorAll(".entry")];
  const modules = [...document.querySelectorAll(".module")].reverse();
  const texts = new Map();
  const textOf = (entry) => {
    if (!texts.has(entry)) {
      const details = entry.querySelector(":scope > details");
      const shared = [...details.querySelectorAll(":scope > .body > .same")].map((link) => descriptionOf(link.dataset.d).textContent);
      const calls = unlisted(entry).map(([path, index]) => `${path}#${index}`);
      const title = details.querySelector("h3").closest("summary").textContent;
      texts.set(entry, [entry.dataset.layer, entry.dataset.kernel, title, details.textContent, ...shared, ...calls].join("\n").toLowerCase());
    }
    return texts.get(entry);
  };
  const chosen = () => {
    const data = new FormData(form ?? undefined);
    return { statuses: data.getAll("status"), layer: data.get("layer"), kernel: data.get("kernel"), reason: data.get("reason"), words: (data.get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean) };
  };
  const apply = () => {
    const { statuses, layer, kernel, reason, words } = chosen();
    let shown = 0;
    let total = 0;
    const fits = new Set();
    for (const entry of entries) {
      const data = entry.dataset;
      total += Number(data.count);
      const fit = (!statuses.length || statuses.includes(data.status)) && (!layer || data.layer === layer) && (!kernel || data.kernel === kernel)
        && (!reason || data.reason === reason) && words.every((word) => textOf(entry).includes(word));
      if (!fit) continue;
      shown += Number(data.count);
      for (let around = entry; around; around = around.parentElement.closest(".entry")) fits.add(around);
    }
    for (const entry of entries) entry.hidden = !fits.has(entry);
    for (const module of modules) module.hidden = !module.querySelector(".entry:not([hidden])");
    document.getElementById("shown").textContent = `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} calls`;
    document.getElementById("nothing").hidden = fits.size > 0;
  };
  const write = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value)).toString();
    // Not allowed everywhere, e.g. in a frame without an address.
    try { history.replaceState(null, "", query ? `#?${query}` : "#"); } catch { /* the filters work all the same */ }
  };
  const read = () => {
    if (!location.hash.startsWith("#?")) return;
    const query = new URLSearchParams(location.hash.slice(2));
    form.reset();
    for (const field of form.elements) {
      if (field.name === "status") field.checked = query.getAll("status").includes(field.value);
      else if (field.name && query.has(field.name)) field.value = query.get(field.name);
    }
    apply();
  };
  globalThis.clearFilters = () => {
    if (!form || entries.every((entry) => !entry.hidden)) return;
    form.reset();
    apply();
  };
  if (form) {
    form.hidden = false;
    form.addEventListener("input", () => { apply(); write(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("clear").addEventListener("click", () => { form.reset(); apply(); write(); });
    addEventListener("hashchange", read);
    addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
      event.preventDefault();
      document.getElementById("q").focus();
    });
    const all = document.getElementById("all");
    all.addEventListener("click", () => {
      const open = all.getAttribute("aria-pressed") !== "true";
      all.setAttribute("aria-pressed", String(open));
      all.textContent = open ? "Close all" : "Open all";
      for (const entry of entries) if (!entry.hidden) entry.querySelector(":scope > details").open = open;
    });
    apply();
    read();
  }
}
