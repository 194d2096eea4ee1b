// The list of queries: filter, search, order.

const FILTERS = {
  all: ["all queries", () => true],
  better: ["better", (query) => change(query) > 0],
  worse: ["worse", (query) => change(query) < 0],
  equal: ["equal", (query) => change(query) === 0],
  lost: ["0 after, above 0 before", (query) => score(state.a, query) > 0 && score(state.b, query) === 0],
  won: ["above 0 after, 0 before", (query) => score(state.a, query) === 0 && score(state.b, query) > 0],
};

const SORTS = {
  gain: ["largest gain first", (one, other) => (change(other) ?? -9e9) - (change(one) ?? -9e9)],
  loss: ["largest loss first", (one, other) => (change(one) ?? 9e9) - (change(other) ?? 9e9)],
  size: ["largest change first", (one, other) => Math.abs(change(other) ?? 0) - Math.abs(change(one) ?? 0)],
  given: ["as in the experiment", (one, other) => one - other],
};

const STEP = 300;
let matching = [];
let listed = 0;

function showList() {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = (query) => {
    const text = `${core.qids[query]} ${core.texts[query]}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  matching = inCollection().filter(FILTERS[state.filter][1]).filter(found).sort(SORTS[state.sort][1]);
  byId("shown").textContent = `${matching.length} of ${core.qids.length} queries`;
  byId("list").replaceChildren();
  listed = 0;
  showMore();
}

function showMore() {
  byId("list").append(...matching.slice(listed, listed + STEP).map(listItem));
  listed = Math.min(listed + STEP, matching.length);
  byId("more").hidden = listed === matching.length;
}

function listItem(query) {
  const value = change(query);
  const button = element("button", {type: "button", onclick: () => openQuery(query)},
    element("span", {className: "text"}, nameOf(query)),
    element("span", {className: `change ${kindOf(value)}`}, signed(value)));
  button.dataset.query = query;
  if (query === state.query) button.setAttribute("aria-current", "true");
  return element("li", {}, button);
}

/** The query after (1) or before (-1) the one being looked at, in the order of the list. */
function neighbour(step) {
  const place = matching.indexOf(state.query);
  return matching[place === -1 ? 0 : Math.min(Math.max(place + step, 0), matching.length - 1)];
}

function markCurrent() {
  while (listed < matching.length && matching.indexOf(state.query) >= listed) showMore();
  for (const button of byId("list").querySelectorAll("button")) {
    const current = Number(button.dataset.query) === state.query;
    button.toggleAttribute("aria-current", current);
    if (current) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({block: "nearest"});
    }
  }
}
