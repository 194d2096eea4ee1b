// Two rankings side by side, with a line for each document that both show.

const ROW = 30;

function showRankings(details, documents, grades) {
  const box = element("section", {ariaLabel: "Rankings"});
  const sides = [state.a, state.b].map((system) => details.lists[system]);
  const rows = Math.min(state.rows, Math.max(1, ...sides.map((list) => list?.length ?? 0)));
  const choice = element("select", {id: "rows", ariaLabel: "How many ranks", onchange: (event) => { state.rows = Number(event.target.value); showQuery(); }},
    ...[10, 20, 50, 100].filter((count) => count <= Math.max(core.depth, 10)).map((count) => element("option", {value: count, selected: count === state.rows}, `top ${count}`)));
  box.append(element("div", {className: "head"}, element("h2", {}, "Rankings"), choice));
  const names = grades.size ? Object.keys(GRADES) : ["unjudged"];
  box.append(element("p", {className: "legend"}, ...names.map((name) => element("span", {}, gradeSign(name), ` ${GRADES[name].says}`)), element("span", {}, "a line joins a document's two ranks")));
  const places = sides.map((list) => new Map((list ?? []).map((number, rank) => [number, rank])));
  const grid = element("div", {className: "rankings"});
  [state.a, state.b].forEach((system, side) => {
    const title = element("h3", {title: core.systems[system]}, core.systems[system]);
    const list = element("ol", {}, ...(sides[side] ?? []).slice(0, rows).map((number, rank) => rankedRow(number, rank, side, places[1 - side], documents, grades)));
    if (!sides[side]?.length) list.append(element("li", {className: "quiet"}, "no documents"));
    title.style.gridColumn = list.style.gridColumn = side === 0 ? 1 : 3;
    grid.append(title, list);
  });
  grid.append(element("div", {className: "lines", id: "lines", role: "img", ariaLabel: "Lines between the ranks of a document"}));
  box.append(grid, unfound(details, documents, grades, places));
  return box;
}

function rankedRow(number, rank, side, elsewhere, documents, grades) {
  const found = documents.get(number);
  const other = elsewhere.get(number);
  const before = other === undefined ? "new" : other === rank ? "=" : other > rank ? `▲${other - rank}` : `▼${rank - other}`;
  const after = other === undefined ? "gone" : `→ ${other + 1}`;
  const says = other === undefined ? `not in the other ranking to rank ${core.depth}` : `rank ${other + 1} in the other ranking`;
  const button = element("button", {type: "button", title: `${found.docno}: ${found.title || ""}\n${says}`, onclick: () => openDocument(number)},
    element("span", {className: "rank"}, String(rank + 1)), gradeSign(gradeName(grades.get(number))),
    element("span", {className: "name"}, found.title || found.docno),
    element("span", {className: "moved"}, side === 0 ? after : before));
  button.dataset.number = number;
  for (const [event, picked] of [["mouseenter", number], ["focus", number], ["mouseleave", -1], ["blur", -1]]) {
    button.addEventListener(event, () => pickLine(picked));
  }
  return element("li", {}, button);
}

function pickLine(number) {
  for (const button of document.querySelectorAll(".rankings button")) button.classList.toggle("picked", Number(button.dataset.number) === number);
  drawnCharts.get("lines")?.view.signal("picked", number).runAsync();
}

/** Relevant documents that neither ranking shows. */
function unfound(details, documents, grades, places) {
  const missing = [...grades].filter(([number, grade]) => grade > 0 && !places[0].has(number) && !places[1].has(number));
  if (!missing.length) return "";
  const links = missing.slice(0, 10).map(([number]) => element("button", {type: "button", onclick: () => openDocument(number)}, documents.get(number).title || documents.get(number).docno));
  const rest = details.judged.relevant > missing.length || missing.length > 10 ? ` (of ${details.judged.relevant} relevant)` : "";
  return element("div", {}, element("p", {className: "quiet"}, `Relevant, but in neither ranking to rank ${core.depth}: ${missing.length}${rest}`), ...links);
}

async function drawLines(details, grades) {
  const place = byId("lines");
  const sides = [state.a, state.b].map((system) => details.lists[system] ?? []);
  const rows = Math.min(state.rows, Math.max(1, ...sides.map((list) => list.length)));
  const right = new Map(sides[1].slice(0, rows).map((number, rank) => [number, rank]));
  const lines = sides[0].slice(0, rows).flatMap((number, rank) => {
    if (!right.has(number)) return [];
    const both = {number, grade: gradeName(grades.get(number)), still: right.get(number) === rank};
    return [{...both, side: 0, at: rank + 0.5}, {...both, side: 1, at: right.get(number) + 0.5}];
  });
  await drawChart("lines", linesSpec(lines, rows, place.clientWidth, rows * ROW));
}
