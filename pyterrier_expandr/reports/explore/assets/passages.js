// Passages and documents with words marked: words of the query, and words that passages and relevant documents share.

// Words that say nothing about what an English text is about.
const COMMON = new Set(("a about across after all also an and any are as at be because been before being between both but by can compared could did do does " +
  "during each for from had has have he her his how however i if in into is it its made make many may more most much no not of on one or " +
  "other our out over she should showed shown since so some such than that the their them then there these they this those through to under up use used " +
  "using various was we well were what when where which while who why will with would you your").split(" "));

const segmenter = typeof Intl.Segmenter === "function" ? new Intl.Segmenter(undefined, {granularity: "word"}) : null;

/** The pieces of a text as `[piece, word]`; word is "" where a piece is none. */
function pieces(text) {
  if (segmenter) return Array.from(segmenter.segment(text), (part) => [part.segment, part.isWordLike ? part.segment.toLowerCase() : ""]);
  return text.split(/([\p{L}\p{N}]+)/u).map((piece, place) => [piece, place % 2 ? piece.toLowerCase() : ""]);
}

/** The set of words in texts, without common ones and single letters of the Latin alphabet. */
function wordsOf(texts) {
  const words = texts.flatMap((text) => pieces(text ?? "").map(([, word]) => word));
  return new Set(words.filter((word) => word && !COMMON.has(word) && !/^[a-z]$/.test(word)));
}

/** Nodes of a text in which words are marked; `shared` comes after `query`. */
function marked(text, query, shared) {
  const nodes = [];
  let plain = "";
  for (const [piece, word] of pieces(text)) {
    const kind = query.has(word) ? "query" : shared.has(word) ? "shared" : "";
    if (!kind) {
      plain += piece;
      continue;
    }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(element("mark", {className: kind}, piece));
  }
  return plain ? [...nodes, plain] : nodes;
}

function showPassages(query, details, documents) {
  const {texts, of} = details.passages;
  const box = element("section", {ariaLabel: "Passages"}, element("h2", {}, "Passages"));
  if (!texts.length) {
    box.append(element("p", {className: "quiet"}, "No passage of this query is stored with the experiment."));
    return box;
  }
  const relevant = details.judged.numbers.filter((_, place) => details.judged.grades[place] > 0).map((number) => documents.get(number));
  const shared = wordsOf(relevant.flatMap((document) => [document.title, document.text]));
  const known = relevant.some((document) => document.text !== undefined);
  const own = wordsOf([core.texts[query]]);
  const brought = (text) => [...wordsOf([text])].filter((word) => shared.has(word) && !own.has(word)).length;
  box.append(element("p", {className: "legend"},
    element("span", {}, element("mark", {className: "query"}, "words of the query")),
    known
      ? element("span", {}, element("mark", {className: "shared"}, "words that it shares with relevant documents"))
      : element("span", {}, "the texts of relevant documents are not in this page, so shared words are not marked")));
  texts.forEach((text, place) => {
    const systems = core.systems.filter((_, system) => of[system].includes(place));
    const sums = known ? ` · ${brought(text)} new words shared with relevant documents` : "";
    box.append(element("div", {className: "passage"}, element("div", {className: "of"}, systems.join(", ") + sums), ...marked(text, own, shared)));
  });
  return box;
}
