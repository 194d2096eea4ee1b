// The data of the page: gzipped JSON in base64, decoded once it is needed.

const decoded = new Map();

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** The value packed in the element with this id, as a promise. */
function unpack(id) {
  if (!decoded.has(id)) {
    const bytes = bytesOf(document.getElementById(id).textContent);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    decoded.set(id, new Response(stream).json());
  }
  return decoded.get(id);
}

/** Rankings, judgments, passages and maps of one query. */
async function detailsOf(query) {
  const size = core.blocks.queries;
  const block = await unpack(`queries-${Math.floor(query / size)}`);
  return block[query % size];
}

/** Map from the number of each document to `{docno, title, text}`; title and text are undefined if left out. */
async function documentsOf(numbers) {
  const size = core.blocks.documents;
  const found = new Map();
  for (const number of new Set(numbers)) {
    const block = await unpack(`documents-${Math.floor(number / size)}`);
    const [docno, title, text] = block[number % size];
    found.set(number, {docno, title, text});
  }
  return found;
}
