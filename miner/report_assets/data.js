
// The data of the page: pairs, their images, and their columns.

function rowsOf({ columns, rows }) {
  return rows.map((row) => {
    const made = {};
    columns.forEach((name, at) => { made[name] = row[at]; });
    return made;
  });
}

function readData() {
  const data = JSON.parse($("data").textContent);
  data.images = rowsOf(data.images);
  data.pairs = rowsOf(data.pairs);
  data.pairs.forEach((pair, index) => {
    pair.index = index;
    pair.images = [data.images[pair.image_1], data.images[pair.image_2]];
  });
  return data;
}

const originalOf = (image) => `images/${image.sha256}.${image.extension}`;
const viewOf = (image) =>
  image.has_view ? `images/${image.sha256}.view.png` : originalOf(image);
const thumbOf = (image) =>
  image.has_thumb ? `thumbs/${image.sha256}.jpg` : originalOf(image);

// What pairs are ordered and filtered by: a heading, a name, whether it is a number, its value.
function columnsOf(data, decisions) {
  const made = [];
  const add = (group, name, isNumber, valueOf) => made.push({ group, name, isNumber, valueOf });
  for (const name of ["rank", "clip_cos", "dino_cos", "gap"]) {
    add("Pair", name, true, (pair) => pair[name]);
  }
  add("Pair", "borderline", false, (pair) => (pair.borderline ? "yes" : "no"));
  add("Pair", "pair_id", false, (pair) => pair.pair_id);
  add("Review", "decision", false, (pair) => decisions.see(pair).decision ?? "undecided");
  add("Review", "pattern", true, (pair) => decisions.see(pair).pattern);
  for (const name of TEXTS) add("Review", name, false, (pair) => decisions.see(pair)[name]);
  add("Review", "decided_at", false, (pair) => decisions.see(pair).decided_at ?? "");
  for (const side of [0, 1]) {
    const group = `Image ${side + 1}`;
    const of = (name, isNumber, valueOf) =>
      add(group, `${name}_${side + 1}`, isNumber, (pair) => valueOf(pair.images[side]));
    for (const name of ["caption", "label", "url"]) of(name, false, (image) => image[name] ?? "");
    for (const name of ["width", "height", "num_bytes"]) of(name, true, (image) => image[name]);
    for (const name of ["format", "image_id", "sha256"]) of(name, false, (image) => image[name]);
    of("key", false, (image) => image.image_id.split("/").slice(2).join("/"));
    of("shard", false, (image) => data.shards[image.shard]);
    const copies = `duplicates_${side + 1}`;
    add(group, copies, true, (pair) => pair[copies]);
  }
  return made;
}
