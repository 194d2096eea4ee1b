// Tabs, controls, keys; this starts the page.

const TABS = ["report", "changes", "queries"];
let changesStale = true;

function openTab(name) {
  state.tab = name;
  for (const tab of TABS) {
    byId(tab).hidden = tab !== name;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
    byId(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  byId("pair").hidden = name === "report";
  if (name === "changes" && changesStale) {
    changesStale = false;
    return showChanges();
  }
  if (name === "queries" && state.query === null && matching.length) return openQuery(matching[0]);
}

/** Show everything again after the pair, the measure or the colours have changed. */
function refresh() {
  changesStale = state.tab !== "changes";
  showList();
  const drawn = state.tab === "changes" ? showChanges() : null;
  return Promise.all([drawn, state.query === null ? null : showQuery()]);
}

function fill(id, options, chosen, change) {
  byId(id).replaceChildren(...options.map(([value, text]) => element("option", {value, selected: value === chosen}, text)));
  byId(id).addEventListener("change", (event) => change(event.target.value));
}

function swap() {
  [state.a, state.b] = [state.b, state.a];
  byId("system-a").value = state.a;
  byId("system-b").value = state.b;
  refresh();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  refresh();
}

const KEYS = {
  1: () => openTab("report"),
  2: () => openTab("changes"),
  3: () => openTab("queries"),
  j: () => matching.length && openQuery(neighbour(1)),
  k: () => matching.length && openQuery(neighbour(-1)),
  "/": () => { openTab("queries"); byId("search").focus(); },
  x: swap,
  t: toggleTheme,
  "?": () => byId("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.target.closest('[role="tab"]') && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const place = TABS.indexOf(state.tab) + (event.key === "ArrowRight" ? 1 : TABS.length - 1);
    openTab(TABS[place % TABS.length]);
    byId(`tab-${state.tab}`).focus();
    return;
  }
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

/** The query that the address names, as `#query=ID` or `#query=COLLECTION/ID`. */
function fromAddress() {
  let name = location.hash.match(/^#query=(.*)$/)?.[1] ?? "";
  try {
    name = decodeURIComponent(name);
  } catch {
    // typed by hand with a "%" in it: taken as it is
  }
  const place = core.qids.findIndex((id, query) => name !== "" && (name === id || name === `${core.collections[query]}/${id}`));
  return place === -1 ? null : place;
}

function controls() {
  const systems = core.systems.map((name, place) => [place, name]);
  const collections = [...new Set(core.collections)].map((name) => [name, name]);
  fill("system-a", systems, state.a, (value) => { state.a = Number(value); refresh(); });
  fill("system-b", systems, state.b, (value) => { state.b = Number(value); refresh(); });
  fill("measure", core.measures.map((name, place) => [place, name]), 0, (value) => { state.measure = Number(value); refresh(); });
  fill("collection", [["", "all collections"], ...collections], "", (value) => { state.collection = value; refresh(); });
  byId("collection-label").hidden = collections.length === 1;
  fill("filter", Object.entries(FILTERS).map(([name, [text]]) => [name, text]), "all", (value) => { state.filter = value; showList(); });
  fill("sort", Object.entries(SORTS).map(([name, [text]]) => [name, text]), "gain", (value) => { state.sort = value; showList(); });
  byId("search").addEventListener("input", (event) => { state.search = event.target.value; showList(); });
  byId("more").addEventListener("click", showMore);
  byId("swap").addEventListener("click", swap);
  byId("theme").addEventListener("click", toggleTheme);
  byId("help").addEventListener("click", KEYS["?"]);
  byId("pair").addEventListener("submit", (event) => event.preventDefault());
  for (const tab of TABS) byId(`tab-${tab}`).addEventListener("click", () => openTab(tab));
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", () => fromAddress() !== null && openQuery(fromAddress()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => { setTheme(event.matches ? "dark" : "light"); refresh(); });
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  core = await unpack("core");
  [state.a, state.b] = core.pair;
  controls();
  showList();
  const named = fromAddress();
  if (named !== null) await openQuery(named);
  else if (core.single) await openTab("queries");
  document.documentElement.dataset.ready = "yes";
}

start();
