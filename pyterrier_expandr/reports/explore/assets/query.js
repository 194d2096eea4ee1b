// One query: its text and scores, passages, rankings, embeddings; and one document.

let looking = null;
let turn = 0;

async function openQuery(query) {
  state.query = query;
  openTab("queries");
  const id = core.collections.some((name) => name !== core.collections[0]) ? `${core.collections[query]}/${core.qids[query]}` : core.qids[query];
  try {
    history.replaceState(null, "", `#query=${encodeURIComponent(id)}`);
  } catch {
    // a page inside a notebook has no address
  }
  markCurrent();
  await showQuery();
}

async function showQuery() {
  const query = state.query;
  if (query === null || query === undefined) return;
  const mine = ++turn;
  const details = await detailsOf(query);
  const numbers = [...details.judged.numbers, ...details.lists.flatMap((list) => list ?? [])];
  const documents = await documentsOf(numbers);
  if (mine !== turn) return; // another query was opened meanwhile
  const grades = new Map(details.judged.numbers.map((number, place) => [number, details.judged.grades[place]]));
  looking = {query, details, documents, grades};
  byId("query").replaceChildren(
    queryHead(query), queryScores(query, details),
    showPassages(query, details, documents), showRankings(details, documents, grades), showMap(details));
  await drawLines(details, grades);
  await drawMap(details, documents, grades);
}

function queryHead(query) {
  const step = (by, sign, label) => element("button", {type: "button", title: label, ariaLabel: label, onclick: () => openQuery(neighbour(by))}, sign);
  return element("div", {},
    element("div", {className: "head"}, element("h2", {}, nameOf(query)), step(-1, "↑", "Previous query (k)"), step(1, "↓", "Next query (j)")),
    element("div", {className: "quiet"}, `${core.collections[query]} · ${core.qids[query]}`));
}

function queryScores(query, details) {
  const items = core.systems.map((name, system) => {
    const value = score(system, query);
    const pair = system === state.a || system === state.b;
    const moved = system === state.b ? element("span", {className: `change ${kindOf(change(query))}`}, ` ${signed(change(query))}`) : "";
    return element("li", {className: pair ? "in-pair" : "", title: `${details.lengths[system]} documents`}, `${name} `, element("b", {}, value === null ? "–" : value.toFixed(3)), moved);
  });
  return element("ul", {className: "scores", ariaLabel: core.measures[state.measure]}, element("li", {className: "quiet"}, core.measures[state.measure]), ...items);
}

/** The system whose map is shown: the second of the pair, or the first. */
const mappedSystem = (details) => [state.b, state.a].find((system) => details.maps[system]);

function showMap(details) {
  const box = element("section", {ariaLabel: "Embeddings"}, element("h2", {}, "Embeddings"));
  const system = mappedSystem(details);
  if (system === undefined) {
    box.append(element("p", {className: "quiet"}, "No vectors of this query under these two systems are in this page."));
    return box;
  }
  const share = Math.round(details.maps[system].share * 100);
  box.append(
    element("p", {className: "quiet"}, `${core.systems[system]}: query, passages, their fusion, the first documents and relevant ones, on the two principal components, which keep ${share} % of the variance.`),
    element("div", {id: "map", className: "chart", role: "img", ariaLabel: "Map of embeddings"}));
  return box;
}

async function drawMap(details, documents, grades) {
  const system = mappedSystem(details);
  if (system === undefined) return;
  const {kind, what, xy} = details.maps[system];
  const said = {high: "highly relevant", relevant: "relevant", against: "judged not relevant", unjudged: "not judged"};
  const points = xy.map(([x, y], place) => {
    const number = what[place];
    if (kind[place] === "document") {
      const found = documents.get(number);
      return {x, y, kind: said[gradeName(grades.get(number))], label: found.title || found.docno, short: "", number};
    }
    const passage = details.passages.texts[details.passages.of[system][number]] ?? "";
    const label = {query: core.texts[looking.query], passage: passage.slice(0, 160), fused: "query and passages together"}[kind[place]];
    return {x, y, kind: kind[place], label, short: kind[place], number: -1};
  });
  await drawChart("map", mapSpec(points), (datum) => datum.number >= 0 && openDocument(datum.number));
}

function openDocument(number) {
  const {query, details, documents, grades} = looking;
  const {docno, title, text} = documents.get(number);
  const grade = gradeName(grades.get(number));
  const ranks = core.systems.map((name, system) => {
    const rank = details.lists[system]?.indexOf(number) ?? -1;
    return `${name}: ${rank === -1 ? `not in the first ${core.depth}` : rank + 1}`;
  });
  const [own, said] = [wordsOf([core.texts[query]]), wordsOf(details.passages.texts)];
  const body = text === undefined ? [element("i", {className: "quiet"}, "The text of this document is not in this page.")] : marked(text, own, said);
  byId("document").replaceChildren(
    element("form", {method: "dialog"}, element("button", {title: "Close (Esc)", ariaLabel: "Close"}, "✕")),
    element("h2", {id: "document-title"}, ...(title ? marked(title, own, said) : [docno])),
    element("div", {className: "quiet"}, gradeSign(grade), ` ${GRADES[grade].says} · ${docno}`),
    element("p", {className: "legend"}, element("mark", {className: "query"}, "words of the query"), element("mark", {className: "shared"}, "words of the passages")),
    element("p", {}, ...body),
    element("p", {className: "quiet"}, `Ranks: ${ranks.join(", ")}`));
  byId("document").showModal();
}
