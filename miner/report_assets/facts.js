
// What is known of a pair and its images.

function factRow(name, ...said) {
  return element("div", "", element("dt", "", name), element("dd", "", ...said));
}

function linkTo(address, text) {
  const link = element("a", "", text);
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

function factsOf(image, copies, data) {
  const list = element("dl", "");
  if (image.label && image.caption) list.append(factRow("label", visible(image.label)));
  if (image.url) {
    const text = visible(image.url);
    list.append(factRow("source", image.is_link ? linkTo(image.url, text) : text));
  }
  const size = `${image.width} × ${image.height} ${image.format}, ${numeral(image.num_bytes)} bytes`;
  list.append(
    factRow("original", ...(image.extension ? [linkTo(originalOf(image), size)] : [size])),
    factRow("image_id", visible(image.image_id)),
    factRow("shard", visible(data.shards[image.shard])),
    factRow("place", `${visible(image.member)}, ${image.num_bytes} bytes from ${image.offset}`),
    factRow("sha256", element("code", "", image.sha256)),
    factRow("copies", copies ? `stands for ${copies} more` : "none"),
  );
  const made = element("section", "", textOf("text", image.caption || image.label, "no caption"));
  if (image.note) made.append(element("p", "warning", visible(image.note)));
  made.append(list);
  return made;
}

function pairFacts(pair, data) {
  const identity = element("code", "", pair.pair_id);
  const line = element("p", "pair", `rank ${pair.rank} · gap ${pair.gap.toFixed(3)} · `, identity);
  if (pair.borderline) line.append(" · ", element("span", "chip", "borderline"));
  return [
    element("div", "meters", ...metersOf(pair, data)),
    line,
    ...pair.images.map((image, side) => factsOf(image, pair[`duplicates_${side + 1}`], data)),
  ];
}
