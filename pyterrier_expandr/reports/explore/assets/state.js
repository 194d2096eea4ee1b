// What is being looked at, and small helpers to build the page. Texts only ever become text nodes.

let core;
const state = {tab: "report", a: 0, b: 0, measure: 0, collection: "", filter: "all", sort: "gain", search: "", query: null, rows: 20};

const byId = (id) => document.getElementById(id);

/** A new element; `children` are elements or strings, and strings are never read as HTML. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const score = (system, query, measure = state.measure) => core.scores[measure][system][query];

/** Score of the second system minus that of the first; null if one of them has none. */
function change(query) {
  const [a, b] = [score(state.a, query), score(state.b, query)];
  return a === null || b === null ? null : Math.round((b - a) * 1e4) / 1e4;
}

const kindOf = (value) => (value > 0 ? "better" : value < 0 ? "worse" : "equal");

const signed = (value) => (value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : "±"}${Math.abs(value).toFixed(3)}`);

/** Queries of the chosen collection. */
function inCollection() {
  const all = core.qids.map((_, query) => query);
  return state.collection === "" ? all : all.filter((query) => core.collections[query] === state.collection);
}

const nameOf = (query) => core.texts[query] || `(query ${core.qids[query]})`;

const GRADES = {
  high: {sign: "◆", says: "highly relevant (grade 2 or more)"},
  relevant: {sign: "●", says: "relevant (grade 1)"},
  against: {sign: "✕", says: "judged not relevant"},
  unjudged: {sign: "○", says: "not judged"},
};

function gradeName(grade) {
  if (grade === undefined) return "unjudged";
  return grade > 1 ? "high" : grade > 0 ? "relevant" : "against";
}

function gradeSign(name) {
  return element("span", {className: `grade ${name}`, title: GRADES[name].says, ariaLabel: GRADES[name].says, role: "img"}, GRADES[name].sign);
}
