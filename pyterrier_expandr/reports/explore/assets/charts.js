// Vega-Lite charts in the colours of the page.

const drawnCharts = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function themed() {
  const [ink, quiet, line] = ["ink", "quiet", "line"].map(colour);
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: {stroke: null},
    axis: {labelColor: quiet, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: "normal", titleLimit: 340},
    legend: {labelColor: ink, titleColor: ink, labelFontSize: 12},
    text: {color: ink},
  };
}

/** Draw a chart in an element; a click on a mark calls `open` with its datum. */
async function drawChart(id, spec, open, renderer = "svg") {
  const place = byId(id);
  if (!place) return null;
  drawnCharts.get(id)?.finalize();
  const options = {actions: false, renderer, config: themed(), tooltip: {theme: document.documentElement.dataset.theme}};
  const drawn = await vegaEmbed(place, {$schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec}, options);
  drawnCharts.set(id, drawn);
  if (open) drawn.view.addEventListener("click", (_, item) => item?.datum && open(item.datum));
  return drawn.view;
}

const kindScale = () => ({domain: ["better", "worse", "equal"], range: ["gain", "loss", "equal"].map(colour)});

function changeRows() {
  const rows = inCollection().map((query) => ({query, a: score(state.a, query), b: score(state.b, query), change: change(query)}));
  return rows
    .filter((row) => row.change !== null)
    .sort((one, other) => other.change - one.change)
    .map((row, place) => ({...row, place: place + 1, kind: kindOf(row.change), id: core.qids[row.query], name: nameOf(row.query)}));
}

const tips = [
  {field: "name", title: "query"},
  {field: "id", title: "id"},
  {field: "a", title: "from", format: ".3f"},
  {field: "b", title: "to", format: ".3f"},
  {field: "change", format: "+.3f"},
];

async function showChanges() {
  const rows = changeRows();
  const [a, b, measure] = [core.systems[state.a], core.systems[state.b], core.measures[state.measure]];
  const count = (kind) => rows.filter((row) => row.kind === kind).length;
  const mean = rows.length ? rows.reduce((sum, row) => sum + row.change, 0) / rows.length : null;
  byId("counts").replaceChildren(
    element("span", {className: "change better"}, `▲ ${count("better")} better`),
    element("span", {className: "change worse"}, `▼ ${count("worse")} worse`),
    element("span", {className: "change equal"}, `= ${count("equal")} equal`),
    element("span", {}, `mean ${signed(mean)} ${measure}`),
  );
  const renderer = rows.length > 3000 ? "canvas" : "svg";
  const open = (datum) => datum.query !== undefined && openQuery(datum.query);
  const least = rows.reduce((found, row) => Math.min(found, row.a, row.b), 0);
  const most = rows.reduce((found, row) => Math.max(found, row.a, row.b), least + 1e-9);
  const axis = (field, title) => ({field, type: "quantitative", title, scale: {domain: [least, most], nice: true}});
  const colours = {field: "kind", type: "nominal", scale: kindScale(), legend: null};
  const sized = {width: "container", height: 340, autosize: {type: "fit", contains: "padding"}};
  await drawChart("scatter", {
    ...sized,
    layer: [
      {data: {values: [{v: least}, {v: most}]}, mark: {type: "line", color: colour("quiet"), strokeDash: [4, 4]},
        encoding: {x: {field: "v", type: "quantitative"}, y: {field: "v", type: "quantitative"}}},
      {data: {values: rows}, mark: {type: "point", filled: true, size: 60, opacity: 0.65, cursor: "pointer"},
        encoding: {x: axis("a", `${measure}, ${a}`), y: axis("b", `${measure}, ${b}`), color: colours,
          shape: {field: "kind", type: "nominal", scale: {domain: ["better", "worse", "equal"], range: ["triangle-up", "triangle-down", "circle"]}, legend: null},
          tooltip: tips}},
    ],
  }, open, renderer);
  await drawChart("bars", {
    ...sized,
    data: {values: rows},
    mark: {type: "bar", cursor: "pointer", binSpacing: 0},
    encoding: {
      x: {field: "start", type: "quantitative", bin: "binned", title: "query, from the largest gain to the largest loss", scale: {domain: [0, Math.max(rows.length, 1)], nice: false}, axis: {grid: false, format: "d", tickMinStep: 1}},
      x2: {field: "place"},
      y: {field: "change", type: "quantitative", title: `change of ${measure}`},
      color: colours,
      tooltip: tips,
    },
    transform: [{calculate: "datum.place - 1", as: "start"}],
  }, open, renderer);
}

/** The lines between two rankings: one for each document that both show. */
function linesSpec(lines, rows, width, height) {
  const names = Object.keys(GRADES);
  return {
    width, height, padding: 0, autosize: "none",
    data: {values: lines},
    params: [{name: "picked", value: -1}],
    mark: {type: "line", interpolate: "monotone"},
    encoding: {
      x: {field: "side", type: "quantitative", axis: null, scale: {domain: [0, 1], nice: false}},
      y: {field: "at", type: "quantitative", axis: null, scale: {domain: [rows, 0], nice: false}},
      detail: {field: "number", type: "nominal"},
      color: {field: "grade", type: "nominal", legend: null, scale: {domain: names, range: names.map(colour)}},
      strokeDash: {field: "still", type: "nominal", legend: null, scale: {domain: [true, false], range: [[2, 3], [1, 0]]}},
      strokeWidth: {condition: {test: "datum.number === picked", value: 5}, value: 1.8},
      opacity: {condition: {test: "picked === -1 || datum.number === picked", value: 0.9}, value: 0.25},
    },
  };
}

/** Points of a map: query, passages, their fusion and documents. */
function mapSpec(points) {
  const kinds = ["query", "passage", "fused", "highly relevant", "relevant", "judged not relevant", "not judged"];
  const colours = ["ink", "passage", "fused", "high", "relevant", "against", "unjudged"].map(colour);
  const shapes = ["diamond", "triangle-up", "square", "circle", "circle", "cross", "circle"];
  const present = kinds.filter((kind) => points.some((point) => point.kind === kind));
  const pick = (values) => present.map((kind) => values[kinds.indexOf(kind)]);
  const axis = (field) => ({field, type: "quantitative", title: null, axis: {labels: false, ticks: false}, scale: {domain: [-1.1, 1.1], nice: false}});
  return {
    width: "container", height: 460, autosize: {type: "fit", contains: "padding"},
    data: {values: points},
    layer: [
      {mark: {type: "point", filled: true, size: 130, opacity: 0.85, cursor: "pointer"},
        encoding: {
          x: axis("x"), y: axis("y"),
          color: {field: "kind", type: "nominal", title: null, scale: {domain: present, range: pick(colours)}, legend: {orient: "bottom", columns: 4}},
          shape: {field: "kind", type: "nominal", title: null, scale: {domain: present, range: pick(shapes)}},
          tooltip: [{field: "kind", title: "what"}, {field: "label", title: "text"}],
        }},
      {transform: [{filter: "datum.short !== ''"}], mark: {type: "text", dy: -13, fontWeight: "bold", fontSize: 12},
        encoding: {x: axis("x"), y: axis("y"), text: {field: "short", type: "nominal"}}},
    ],
  };
}
